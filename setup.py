"""Put samples/ into the wheel as cowrieprocessor/samples, for `demo`. Everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithSamples(build_py):
    """Copies the package, and the samples into it; an editable installation finds them in the clone."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if not self.editable_mode:
            self.copy_tree("samples", str(Path(self.build_lib, "cowrieprocessor", "samples")))


setup(cmdclass={"build_py": BuildWithSamples})
