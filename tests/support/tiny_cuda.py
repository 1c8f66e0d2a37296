"""A CUDA runtime without a GPU: a small library of C with the functions that are called."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
static size_t used; static long live; static int last;
static int fail(int code) { last = code; return code; }
int cudaRuntimeGetVersion(int *v) { *v = 12060; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13020; return 0; }
int cudaGetLastError(void) { int code = last; last = 0; return code; }
int lastError(void) { return last; }
long alive(void) { return live; }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "invalid argument"; }
int cudaGetDeviceProperties(char *p, int device) {
    if (device != 0) return fail(101);
    memset(p, 0xff, 1032); strcpy(p, "Orin"); return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 0) return fail(101);
    *value = attribute == 16 ? 14 : attribute == 75 ? 8 : attribute == 76 ? 7 : -1; return *value < 0 ? fail(1) : 0; }
int cudaDeviceGetPCIBusId(char *id, int length, int device) {
    if (device != 0 || length < 13) return fail(1);
    strcpy(id, "0000:41:00.0"); return 0; }
int cudaMemGetInfo(size_t *f, size_t *t) { *f = 5000000000u; *t = 8000000000u; return 0; }
int cudaMalloc(void **p, size_t size) {
    if (size > 1u << 20) return fail(2);
    *p = malloc(size); live++; return 0; }
int cudaFree(void *p) { free(p); live--; return 0; }
int cudaStreamCreate(void **s) { *s = malloc(1); live++; return 0; }
int cudaStreamDestroy(void *s) { free(s); live--; return 0; }
int cudaStreamSynchronize(void *s) { return s ? 0 : fail(400); }
int cudaMemcpyAsync(void *d, const void *s, size_t size, int kind, void *stream) {
    if (kind != 1 && kind != 2) return fail(21);
    if (!stream) return fail(400);
    memcpy(d, s, size); used += size; return 0; }
int cudaEventCreate(void **e) { *e = calloc(1, sizeof(long)); live++; return 0; }
int cudaEventDestroy(void *e) { free(e); live--; return 0; }
static long microseconds;
void pass_time(long more) { microseconds += more; }
int cudaEventRecord(void *e, void *s) { *(long *)e = microseconds += 1500; return s ? 0 : fail(400); }
int cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = (*(long *)b - *(long *)a) / 1000.0f; return 0; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the library with")
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "cudart.c").write_text(SOURCE)
    path = folder / "libcudart.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, folder / "cudart.c"], check=True)
    return path


def alive(library: Path) -> int:
    return int(ctypes.CDLL(str(library)).alive())
