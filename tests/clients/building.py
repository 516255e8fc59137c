"""What both runners need: where cargo builds, and how it is called."""

import json
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


def target_folder():
    """Where cargo builds."""
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"]
    metadata = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout
    return Path(json.loads(metadata)["target_directory"])


def build(*arguments):
    """Builds with cargo."""
    subprocess.run(["cargo", "build", "--quiet", *arguments], cwd=REPOSITORY, check=True)


def retry(command, **options):
    """Runs a command that talks to a package server; these have bad minutes. Returns whether it succeeded."""
    for attempt in range(3):
        if subprocess.run(command, **options).returncode == 0:
            return True
        time.sleep(5 * (attempt + 1))
    return False
