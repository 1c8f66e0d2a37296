"""Hashes of the user's input: the checkpoint, and the source of the user's own network."""

from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.models.user_code import find_module
from pipeline.workspace.hashing import sha256_of_file


def digest_of_checkpoint(path: Path) -> str:
    """Return the file's hash; raise `CheckpointError` if there is no such file."""
    if not path.exists():
        raise CheckpointError(f"the checkpoint {path} does not exist. Give a .pth, .pt, .th or .safetensors file.")
    if path.is_dir():
        raise CheckpointError(f"the checkpoint {path} is a folder. Give the file with the weights.")
    if not path.is_file():
        raise CheckpointError(f"the checkpoint {path} is not a regular file. Give the file with the weights.")
    return sha256_of_file(path)


def digest_of_factory(factory: str) -> str:
    """Return the hash of the factory's source, found as `pipeline.models.custom` imports it."""
    module = factory.partition(":")[0]
    spec = find_module(module)
    if spec is None or spec.origin is None or not spec.has_location:
        raise CheckpointError(f"the module {module} of --model {factory} was not found from {Path.cwd()}.")
    return sha256_of_file(Path(spec.origin))
