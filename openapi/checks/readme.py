"""Runs openapi/README.md: every block of code, against a demo of its own for each language.

openapi/checks/readme.py                      all but Rust, whose generator takes long to build
openapi/checks/readme.py Rust                 this one
A block whose first line names a file (`# reset.py`, `// reset.ts`) is written to it; one of commands is run.
The sections after the languages are in Python and go on in its folder.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
LATCHKEY = os.environ.get("LATCHKEY", str(SOURCE / "target/debug/latchkey"))
NEEDS = {"curl": "curl", "TypeScript": "npm", "Python": "python3", "Rust": "cargo", "Java": "javac"}


def sections() -> dict[str, list[tuple[str, str]]]:
    """Heading → its blocks of code; those after the languages belong to Python."""
    text = (SOURCE / "openapi/README.md").read_text()
    found: dict[str, list[tuple[str, str]]] = {}
    for section in re.split(r"^##+ ", text, flags=re.M)[1:]:
        heading, _, rest = section.partition("\n")
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", rest, flags=re.M | re.S)
        found.setdefault(heading if heading in NEEDS else "Python", []).extend(blocks)
    return found


def start(work: Path) -> tuple[subprocess.Popen, str, str]:
    """A demo, its address and its admin's token."""
    out = work / "demo.out"
    command = [LATCHKEY, "--log-level", "warn", "--data-dir", str(work / "data"), "demo", "--listen", "127.0.0.1:0"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LATCHKEY")}
    with out.open("w") as to:
        server = subprocess.Popen(command, stdout=to, stderr=subprocess.STDOUT, env=env)
    for _ in range(480):
        said = out.read_text()
        if found := re.search(r"^Listening on (\S+).*reset-mfa -H 'Authorization: Bearer ([^']+)'", said, re.M | re.S):
            return server, found[1], found[2]
        if server.poll() is not None:
            break
        time.sleep(0.25)
    sys.exit(out.read_text())


def run(section: str, blocks: list[tuple[str, str]]) -> bool:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        server, url, token = start(work)
        env = os.environ | {"LATCHKEY_URL": url, "LATCHKEY_TOKEN": token, "LATCHKEY_SOURCE": str(SOURCE)}
        said = ""
        if section == "Rust":
            # The versions that the client is tested with.
            shutil.copy(SOURCE / "openapi/clients/rust/Cargo.lock", work)
        try:
            for language, code in blocks:
                if language == "sh":
                    command = ["bash", "-euo", "pipefail", "-c", code]
                else:
                    file = work / code.partition("\n")[0].split()[-1]
                    file.parent.mkdir(exist_ok=True)
                    file.write_text(code)
                    # In the first section a block of commands says how it is run.
                    if language != "python" or file.name == "reset.py":
                        continue
                    command = [str(work / "venv/bin/python"), str(file)]
                done = subprocess.run(command, cwd=work, env=env, text=True, capture_output=True)
                said += done.stdout
                if done.returncode:
                    print(f"FAILED   {section}: {code}\n{done.stdout}{done.stderr}")
                    return False
        finally:
            server.terminate()
            server.wait()
    if "MFA reset successfully" not in said:
        print(f"FAILED   {section} did not reset anybody:\n{said}")
        return False
    for line in said.splitlines():
        # Tools may talk; what counts is what the API said.
        print(f"         {line[:150]}")
    return True


def main(wanted: list[str]) -> int:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for section, blocks in sections().items():
        if wanted and section not in wanted:
            continue
        if not wanted and section == "Rust":
            print("skipped  Rust: by hand only, its generator takes long to build")
            counts["skipped"] += 1
        elif not shutil.which(NEEDS[section]):
            print(f"skipped  {section}: there is no {NEEDS[section]}")
            counts["skipped"] += 1
        else:
            began = time.monotonic()
            print(f"===      {section}", flush=True)
            good = run(section, blocks)
            counts["passed" if good else "failed"] += 1
            if good:
                print(f"ok       {section} ({time.monotonic() - began:.0f} s)", flush=True)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
