"""Measure the structure of the code: modules, folders, lines, functions, names; for this checkout or any other.

    python scripts/measure_house.py [PACKAGE...]

Tests and generated code are excluded. A name counts as a participle if its last word ends in -ed or is one of the
irregular ones below, unless it starts with `is_` or `has_`.
"""

import argparse
import ast
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

IRREGULAR = frozenset({"told", "kept", "given", "written", "made", "built", "sent", "seen", "known", "held", "found"})
ROOT = Path(__file__).parent.parent


def modules_of(package: Path) -> list[Path]:
    found = (path for path in sorted(package.rglob("*.py")) if not {"tests", "test"} & set(path.parts))
    return [path for path in found if not path.name.endswith("_pb2.py")]


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    named = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return len([each for each in named if each.arg not in ("self", "cls")])


def is_participle(name: str) -> bool:
    words = name.strip("_").split("_")
    return words[0] not in ("is", "has") and (words[-1].endswith("ed") or words[-1] in IRREGULAR)


def figures(package: Path) -> dict[str, str]:
    modules = modules_of(package)
    lines = [path.read_text(encoding="utf-8").count("\n") for path in modules if path.name != "__init__.py"]
    functions = [each for path in modules for each in functions_of(path)]
    lengths = [(each.end_lineno or each.lineno) - each.lineno + 1 for each in functions]
    most = max(map(parameters, functions))
    folders = Counter(path.parent for path in modules if path.name != "__init__.py")
    place, count = folders.most_common(1)[0]
    return {
        "modules": str(len(lines)),
        "most modules in one folder": f"{count} ({place.relative_to(package.parent)})",
        "lines of a module, median / max": f"{statistics.median(lines):.0f} / {max(lines)}",
        "functions": str(len(functions)),
        "functions over 60 lines": f"{sum(length > 60 for length in lengths) / len(functions):.1%}",
        "functions with more than 8 parameters (most)": f"{sum(parameters(f) > 8 for f in functions)} ({most})",
        "functions named by a participle": f"{sum(is_participle(f.name) for f in functions) / len(functions):.1%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", type=Path, default=[ROOT / "pipeline", ROOT / "targets"])
    packages = parser.parse_args().packages
    found = [figures(package.resolve()) for package in packages]
    print("|  | " + " | ".join(package.name for package in packages) + " |")
    print("|---|" + "--:|" * len(packages))
    for name in found[0]:
        print(f"| {name} | " + " | ".join(each[name] for each in found) + " |")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    print(f"\nREADME: {readme.count(chr(10))} lines, {len(readme.split()):,} words")


if __name__ == "__main__":
    main()
