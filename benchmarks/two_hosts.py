"""Train on two hosts, lose one of them on the way, and check that the model stays the same to the bit.

    python benchmarks/two_hosts.py [killed] [unplugged] [rendezvous]

The hosts are network namespaces of this machine, connected by a virtual cable; each runs torchrun with one process:

    killed      kill -9 for every process of the second host; the same command is started there again
    unplugged   the cable is pulled first, so that the first host is not notified; 20 s later the cable is plugged in
                again and the command is started again
    rendezvous  kill -9 for every process of the first host, which has the rendezvous; both commands are started again

The model must be identical, to the bit, to that of a run without a loss. Exit code: 0 if it always was, 1 if not, 77 if
such hosts cannot be created (needs Linux with unshare and ip, and user namespaces unless run as root).
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from headgate.runs.run_directory import RunDirectory, is_run

FLAGS = shlex.split(
    "verses --limit 3000 --hidden-size 24 --batch-size 8 --sequence-length 7 --dropout 0.3 --epochs 14 "
    "--checkpoint-every 50 --sample-every 0"
)
ADDRESSES = {"one": "10.77.0.1", "two": "10.77.0.2"}
PATIENCE = 300  # seconds; more than anything here takes


class WrongError(Exception):
    """A check that failed; the message says which."""


def plug() -> None:
    """Create the two hosts and a cable between them."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    for name in ADDRESSES:
        subprocess.run(["ip", "netns", "add", name], check=True)
    cable = ["cable-one", "netns", "one", "type", "veth", "peer", "name", "cable-two", "netns", "two"]
    subprocess.run(["ip", "link", "add", *cable], check=True)
    for name, address in ADDRESSES.items():
        subprocess.run(["ip", "-n", name, "address", "add", f"{address}/24", "dev", f"cable-{name}"], check=True)
        for device in (f"cable-{name}", "lo"):
            subprocess.run(["ip", "-n", name, "link", "set", device, "up"], check=True)


@dataclass
class Host:
    """One of the two hosts."""

    name: str
    said: Path  # the output of its commands
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self, job: str, out: Path) -> None:
        inside = ["ip", "netns", "exec", self.name]
        inside += ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]  # killing the first process kills all
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
            "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", job,
            "--rdzv-endpoint", f"{ADDRESSES['one']}:29400", "--local-addr", ADDRESSES[self.name],
            "--rdzv-conf", f"is_host={int(self.name == 'one')},join_timeout=3600",
        ]  # fmt: skip
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": f"cable-{self.name}", "OMP_NUM_THREADS": "1"}
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = (
            "1"  # otherwise a returning host waits for an address forever
        )
        with self.said.open("ab") as output:
            command = [*inside, *torchrun, "-m", "headgate", "train", *FLAGS, "--out", str(out)]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def cable(self, state: str) -> None:
        subprocess.run(["ip", "-n", self.name, "link", "set", f"cable-{self.name}", state], check=True)

    def code(self) -> int:
        """Wait for its command and return the exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise WrongError(f"host {self.name} is still running after {PATIENCE} s") from None


def step_behind(out: Path, step: int) -> int:
    """Wait for a checkpoint after ``step`` and return its step."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        newest = RunDirectory.open(out).progress() if is_run(out) else None
        if newest is not None and newest["step"] > step:
            return int(newest["step"])
        time.sleep(0.1)
    raise WrongError(f"there is no checkpoint after step {step} within {PATIENCE} s")


def lose(way: str, folder: Path) -> Path:
    """Train, lose a host in this way (``alone``: lose none), let training finish, and return the run directory."""
    out = folder / way
    one, two = hosts = [Host(name, folder / f"{way}.{name}") for name in ADDRESSES]
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - began:6.1f} s  {text}", flush=True)

    try:
        for host in hosts:
            host.start(way, out)
        if way != "alone":
            say(f"training, at step {step_behind(out, 200)}")
            began = time.monotonic()
            lost = one if way == "rendezvous" else two
            if way == "unplugged":
                lost.cable("down")
            lost.kill()
            step = step_behind(out, 0)
            say(f"host {lost.name} is lost ({way}); the newest checkpoint is from step {step}")
            if way == "rendezvous":
                say(f"the command on host two exited with {two.code()}")
                two.start(way, out)
                say("started again on host two")
            if way == "unplugged":
                time.sleep(20)
                if one.process.poll() is not None:
                    raise WrongError("host one did not wait")
                lost.cable("up")
            lost.start(way, out)
            say(f"started again on host {lost.name}")
            say(f"continued: a checkpoint from step {step_behind(out, step)}")
        codes = [host.code() for host in hosts]
        say(f"exit codes {codes[0]} and {codes[1]}")
        if codes != [0, 0]:
            raise WrongError("both exit codes should be 0")
    except WrongError:
        for host in hosts:
            print(f"output of host {host.name}:\n{host.said.read_text()[-5000:]}")
        raise
    finally:
        for host in hosts:
            host.kill()
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = ("killed", "unplugged", "rendezvous")
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"how to lose a host: {', '.join(ways)} (all)")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # already in its own namespaces
    options = parser.parse_args()
    if wrong := sorted(set(options.ways) - set(ways)):
        parser.error(f"unknown way of losing a host: {', '.join(wrong)}")
    if not options.alone:
        alone = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--kill-child", "--fork"]
        needed = shutil.which("unshare") and shutil.which("ip")
        if not needed or subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL).returncode:
            print("hosts cannot be created: unshare --user --map-root-user --net --mount, or ip, does not work")
            return 77
        return subprocess.run([*alone, sys.executable, *sys.argv, "--alone"]).returncode

    plug()
    with tempfile.TemporaryDirectory() as name:
        try:
            print("alone: no host is lost")
            whole = (lose("alone", Path(name)) / "model.safetensors").read_bytes()
            for way in options.ways or ways:
                print(f"{way}:")
                model = (lose(way, Path(name)) / "model.safetensors").read_bytes()
                if model != whole:
                    raise WrongError("the model differs from that of the run without a loss")
                print("  identical to the bit")
        except WrongError as error:
            print(error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
