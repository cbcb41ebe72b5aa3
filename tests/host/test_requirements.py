"""Libraries that are missing, too old or broken: which, and the command for ComfyUI's own Python."""


def test_missing_and_old_libraries_are_named_with_the_command(in_host, tmp_path):
    """Catches "No module named 'diffusers'" and a user who installs it into another Python."""

    def look(module, folder):
        import pathlib
        import sys

        requirements = module(".nodes.requirements")
        fine = requirements.problem()
        file = pathlib.Path(folder, "requirements.txt")
        file.write_text("# a comment\nabsent-library>=1.2\n\ntorch>=99.0\nnumpy>=1.0\njson>=1\n")
        requirements.FILE = file
        return {"fine": fine, "wrong": requirements.problem(), "python": sys.executable, "file": str(file)}

    seen = in_host(look, folder=str(tmp_path))
    assert seen["fine"] is None
    start = "BLIP3o-NEXT needs absent-library 1.2 or newer, which is not installed and torch 99.0 or newer, but 2."
    assert seen["wrong"].startswith(start) and "numpy" not in seen["wrong"] and "json" not in seen["wrong"]
    assert seen["wrong"].endswith(f'"{seen["python"]}" -m pip install -r "{seen["file"]}"')


def test_versions_are_compared_by_number(in_host, tmp_path):
    """Catches 0.9 taken for newer than 0.33, and a local or pre-release suffix that cannot be read."""

    def look(module):
        import importlib.metadata

        problem_of, versions = module(".nodes.requirements")._problem_of, {}
        importlib.metadata.version = versions.get
        said = []
        for installed, line in (
            ("0.9", "a>=0.33.0"), ("4.52.0.dev0", "a>=4.51.0"), ("2.13.0+cpu", "a>=2.13"), ("0.33", "a>=0.33.0"),
        ):  # fmt: skip
            versions["a"] = installed
            said.append(problem_of(line))
        return said

    assert in_host(look) == ["a 0.33.0 or newer, but 0.9 is installed", None, None, None]


def test_a_run_without_a_library_says_what_to_install(in_host):
    """Catches a broken library, whose files are there, answered with Python's own words."""

    def look(module):
        import sys

        blip3o, loader = module(".nodes.host.folders").bundled.NAME, module(".nodes.load").Loader
        for name in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
            del sys.modules[name]
        sys.modules["diffusers"] = None  # importing it raises ImportError
        try:
            loader.execute(blip3o)
        except Exception as error:
            return [type(error).__name__, str(error)]

    kind, message = in_host(look)
    assert kind == "Blip3oError" and "diffusers" in message and "requirements.txt" in message


def test_the_log_says_it_at_start(in_host, tmp_path):
    """Catches nodes that look healthy until Run."""

    def look(module, folder):
        import asyncio
        import logging
        import pathlib

        requirements, said = module(".nodes.requirements"), []
        requirements.FILE = pathlib.Path(folder, "requirements.txt")
        requirements.FILE.write_text("absent-library>=1.2\n")
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())
        logging.getLogger().addHandler(handler)
        asyncio.run(module("").comfy_entrypoint().on_load())
        return said

    assert any("absent-library 1.2" in line for line in in_host(look, folder=str(tmp_path)))
