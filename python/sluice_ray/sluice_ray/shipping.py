"""What travels to the nodes: the program with its libraries and files, and certificates of its own."""

import os
import pathlib
import re
import secrets
import shutil
import subprocess
import tempfile
from typing import Iterable

from sluice_ray import guard
from sluice_ray.actors import SHIPPED

MEMBER_FILES = ["ca.pem", "node.pem", "node.key", "token"]  # and never ca.key

# The C library must be the node's own: it belongs to its loader. All other libraries travel.
system_library = re.compile(
    r"(ld-linux.*|linux-vdso|linux-gate|lib(c|m|dl|rt|pthread|resolv|util|nsl|anl|mvec|BrokenLocale))\.so(\.\d+)*"
)


class NotShippable(Exception):
    """With a sentence for people."""


def libraries_of(program: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name to path, of the shared libraries that the program needs from elsewhere than the C library."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "not a dynamic executable" in done.stdout + done.stderr:
        return {}
    if done.returncode != 0:
        raise NotShippable(f"{program}: ldd says: {done.stderr.strip()}")
    found: dict[str, pathlib.Path] = {}
    for line in done.stdout.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if not arrow or system_library.fullmatch(os.path.basename(name)):
            continue
        if path == "not found":
            raise NotShippable(f"{program} needs {name}, which is not there")
        found[name] = pathlib.Path(re.sub(r" \(0x[0-9a-f]+\)$", "", path))
    return found


def payload(directory: pathlib.Path, program: pathlib.Path, files: Iterable[pathlib.Path] = ()) -> None:
    """Fills an empty directory with all that a node needs: `files` at its top, the rest in SHIPPED."""
    shipped = directory / SHIPPED
    (shipped / "lib").mkdir(parents=True)
    if not program.is_file() or not os.access(program, os.X_OK):
        raise NotShippable(f"{program} is no program")
    shutil.copy(program, shipped / program.name)
    for name, path in libraries_of(program).items():
        shutil.copy(path, shipped / "lib" / name)
    shutil.copy(guard.__file__, shipped / "guard.py")
    for file in files:
        to = directory / file.resolve().name
        if to.exists():
            raise NotShippable(f"two files of the name {to.name}")
        if file.is_dir():
            shutil.copytree(file, to)
        elif file.is_file():
            shutil.copy(file, to)
        else:
            raise NotShippable(f"{file} is not there")


def read_member(directory: pathlib.Path) -> dict[str, bytes]:
    """What a member needs of a directory that `sluice certs` has made."""
    try:
        return {name: (directory / name).read_bytes() for name in MEMBER_FILES}
    except OSError as error:
        raise NotShippable(f"{error.filename}: {error.strerror}; `sluice certs DIR` makes certificates") from error


def new_member(program: pathlib.Path) -> dict[str, bytes]:
    """Certificates for one application. The authority's key is gone when this returns."""
    beside = program.resolve().parent / "sluice"
    command = str(beside) if os.access(beside, os.X_OK) else shutil.which("sluice")
    with tempfile.TemporaryDirectory(prefix="sluice-") as made:  # of mode 0700
        directory = pathlib.Path(made)
        try:
            if command:
                run([command, "certs", "--days", "3650", made])
            else:
                by_openssl(directory)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or str(error)
            raise NotShippable(f"no certificates: {reason}") from error
        return read_member(directory)


def by_openssl(directory: pathlib.Path) -> None:
    """What `sluice certs` makes, where that command is not at hand."""
    (directory / "ca.cnf").write_text(
        "[req]\nprompt=no\ndistinguished_name=name\nx509_extensions=authority\n[name]\nO=sluice\nCN=authority\n"
        "[authority]\nbasicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\n"
    )
    (directory / "node.ext").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=serverAuth,clientAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    key = ["openssl", "genpkey", "-algorithm", "ed25519", "-out"]
    run([*key, "ca.key"], directory)
    run([*key, "node.key"], directory)
    authority = ["openssl", "req", "-x509", "-new", "-key", "ca.key", "-days", "3650", "-config", "ca.cnf"]
    run([*authority, "-out", "ca.pem"], directory)
    run(["openssl", "req", "-new", "-key", "node.key", "-subj", "/O=sluice/CN=node", "-out", "node.csr"], directory)
    sign = ["openssl", "x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    run([*sign, "-days", "3649", "-extfile", "node.ext", "-out", "node.pem"], directory)
    (directory / "token").write_text(secrets.token_hex(32))


def run(command: list[str], directory: pathlib.Path | None = None) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, umask=0o077)
