from pathlib import Path

import pytest

from targets.device.settings import MEBIBYTE, SettingError, Settings, engine_cache, read_settings


def test_without_an_environment_there_are_defaults() -> None:
    assert read_settings({}) == Settings()
    assert Settings().port == 8000


def test_two_protocols_need_two_ports() -> None:
    for environment in ({"PORT": "9000", "GRPC_PORT": "9000"}, {"GRPC_PORT": "8000"}):
        with pytest.raises(SettingError, match=r"GRPC_PORT and PORT are both \d000; use another one, or 0"):
            read_settings(environment)


def test_every_setting_is_read_from_its_variable() -> None:
    environment = {
        "PORT": "9000",
        "GRPC_PORT": "9001",
        "HOST": "::1",
        "MODEL_FOLDER": "/somewhere",
        "MAX_BATCH": "7",
        "MAX_BODY_MIB": "3",
        "MAX_WAITING": "2",
        "MAX_IMAGE_MIPIXELS": "12",
        "BODY_SECONDS": "5",
        "BODY_PACE": "0",
        "MAX_HELD_MIB": "6",
        "MAX_CONNECTIONS": "9",
        "HEAD_SECONDS": "11",
        "REQUEST_SECONDS": "13",
        "IDLE_SECONDS": "14",
        "GRACE_SECONDS": "0",
        "BATCH_IMAGES": "15",
        "BATCH_DELAY_MS": "16",
        "TOKEN_FILE": "/tokens",
        "TLS_CERTIFICATE": "/certificate",
        "TLS_KEY": "/key",
        "TLS_CLIENT_CA": "/ca",
        "LOG_LEVEL": "WARNING",
        "UNRELATED": "x",
    }
    assert read_settings(environment) == Settings(
        port=9000,
        grpc_port=9001,
        host="::1",
        model_folder=Path("/somewhere"),
        max_batch=7,
        max_body_bytes=3 * MEBIBYTE,
        max_waiting=2,
        max_image_pixels=12 << 20,
        body_seconds=5,
        body_pace=0,
        max_held_bytes=6 * MEBIBYTE,
        max_connections=9,
        head_seconds=11,
        request_seconds=13,
        idle_seconds=14,
        grace_seconds=0,
        batch_images=15,
        batch_delay_ms=16,
        token_file=Path("/tokens"),
        tls_certificate=Path("/certificate"),
        tls_key=Path("/key"),
        tls_client_ca=Path("/ca"),
        log_level="warning",
    )


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("PORT", 1, 65535),
        ("GRPC_PORT", 0, 65535),
        ("MAX_BATCH", 1, 4096),
        ("MAX_BODY_MIB", 1, 4096),
        ("MAX_WAITING", 1, 4096),
        ("MAX_IMAGE_MIPIXELS", 1, 64),
        ("MAX_CONNECTIONS", 1, 65536),
        ("HEAD_SECONDS", 1, 3600),
        ("BODY_SECONDS", 1, 3600),
        ("BODY_PACE", 0, 1 << 24),
        ("MAX_HELD_MIB", 1, 4096),
        ("REQUEST_SECONDS", 1, 3600),
        ("IDLE_SECONDS", 1, 3600),
        ("GRACE_SECONDS", 0, 3600),
        ("BATCH_IMAGES", 1, 4096),
        ("BATCH_DELAY_MS", 0, 10_000),
        ("MEASURE_SECONDS", 0, 3600),
    ],
)
def test_numbers_have_limits_which_the_message_tells(name: str, least: int, most: int) -> None:
    for value in (least, most):
        read_settings({name: str(value)})
    wrong = [str(least - 1), str(most + 1), "-1", "", "many", "1.5", "1e3", "8_0", " 8", "+8", "²", "٨", "9" * 5000]
    for text in wrong:
        with pytest.raises(SettingError) as caught:
            read_settings({name: text})
        assert str(caught.value) == f"{name} is {text!r}; use a whole number from {least} to {most}"


@pytest.mark.parametrize("level", ["", "LOUD", "critical", "10"])
def test_only_known_levels_are_taken(level: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_settings({"LOG_LEVEL": level})
    assert str(caught.value) == f"LOG_LEVEL is {level!r}; use debug, info, warning or error"


@pytest.mark.parametrize("name", ["TOKEN_FILE", "TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA"])
def test_an_empty_file_name_is_no_file(name: str) -> None:
    """As an unset variable in a compose file gives it: access must not be open by mistake."""
    with pytest.raises(SettingError, match=f"{name} is empty; set it to a path, or unset it"):
        read_settings({name: ""})


def test_the_engine_cache_is_where_it_is_said() -> None:
    assert read_settings({}).engine_cache == engine_cache({}) == Path("/var/cache/edge-deploy")
    assert read_settings({"ENGINE_CACHE": "/engines"}).engine_cache == Path("/engines")
    with pytest.raises(SettingError, match="ENGINE_CACHE is empty; set it to a path, or unset it"):
        read_settings({"ENGINE_CACHE": ""})
