"""Hashes of what the user gives: the checkpoint, and the source of a network of their own."""

from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.models.user_code import find_module
from pipeline.workspace.hashing import sha256_of_file


def digest_of_checkpoint(path: Path) -> str:
    """Raises `CheckpointError` where there is no such file."""
    if not path.exists():
        raise CheckpointError(f"the checkpoint {path} does not exist. Give a .pth, .pt, .th or .safetensors file.")
    if path.is_dir():
        raise CheckpointError(f"the checkpoint {path} is a folder. Give the file with the weights in it.")
    if not path.is_file():
        raise CheckpointError(f"the checkpoint {path} is no regular file. Give the file with the weights in it.")
    return sha256_of_file(path)


def digest_of_factory(factory: str) -> str:
    """Of the factory's source, found as `pipeline.models.custom` will import it: from the working directory, too."""
    module = factory.partition(":")[0]
    spec = find_module(module)
    if spec is None or spec.origin is None or not spec.has_location:
        raise CheckpointError(f"the module {module} of --model {factory} is not found from {Path.cwd()}.")
    return sha256_of_file(Path(spec.origin))
