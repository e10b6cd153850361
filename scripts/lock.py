"""Print every installed distribution with its version, for use as a pip constraints file.

Run by ``make lock`` in an environment that holds the extras ``dev`` and ``bench``.
"""

from __future__ import annotations

from importlib.metadata import distributions

LEFT_OUT = {"freeroam", "pip", "setuptools", "wheel"}


def main() -> None:
    """Print one ``name==version`` a line, in order of name."""
    print("# Every version that the tests have passed with. Written by `make lock`; used by pip with -c.")
    found = {(dist.metadata["Name"].lower(), dist.version) for dist in distributions()}
    for name, version in sorted(found):
        if name not in LEFT_OUT:
            # The part after a plus names a build (of PyTorch for a CPU), which other machines need not have.
            print(f"{name}=={version.partition('+')[0]}")


if __name__ == "__main__":
    main()
