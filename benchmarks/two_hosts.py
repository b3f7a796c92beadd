"""Training across two hosts, one of which is lost on the way: what the other does, and whether the bits stay the same.

    python benchmarks/two_hosts.py [killed] [unplugged] [rendezvous]

The hosts are network namespaces of this machine with a cable between them, and one torchrun with one process each:

    killed      every process of the second host gets kill -9; the same command starts there again
    unplugged   the cable is pulled first, so that nothing tells the first host; 20 s later it is back, and the command
    rendezvous  every process of the first host, where the rendezvous is, gets kill -9; both commands start again

Every time the model must be, to the bit, that of a run that lost nobody. Exit code: 0 so it was, 1 it was not, 77 there
can be no such hosts here (Linux with unshare and ip is needed, and user namespaces where one is not root).
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from headgate.runs.run_directory import RunDirectory, is_run

FLAGS = [
    "verses",
    "--limit",
    "3000",
    "--hidden-size",
    "24",
    "--batch-size",
    "8",
    "--sequence-length",
    "7",
    "--dropout",
    "0.3",
    "--epochs",
    "14",
    "--checkpoint-every",
    "50",
    "--sample-every",
    "0",
]
ADDRESSES = {"one": "10.77.0.1", "two": "10.77.0.2"}
PATIENCE = 300  # seconds: nothing here takes that long


class WrongError(Exception):
    """Something went otherwise than it should; says what."""


def plug() -> None:
    """The two hosts, with a cable between them."""
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
    """One of the two."""

    name: str
    said: Path  # the file that its commands write to
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self, job: str, out: Path) -> None:
        there = ["ip", "netns", "exec", self.name]
        there += ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]  # all its processes go with the first
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
            "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", job,
            "--rdzv-endpoint", f"{ADDRESSES['one']}:29400", "--local-addr", ADDRESSES[self.name],
            "--rdzv-conf", f"is_host={int(self.name == 'one')},join_timeout=3600",
        ]  # fmt: skip
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": f"cable-{self.name}", "OMP_NUM_THREADS": "1"}
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else who comes back waits for an address in vain
        with self.said.open("ab") as output:
            command = [*there, *torchrun, "-m", "headgate", "train", *FLAGS, "--out", str(out)]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def cable(self, state: str) -> None:
        subprocess.run(["ip", "-n", self.name, "link", "set", f"cable-{self.name}", state], check=True)

    def code(self) -> int:
        """How its command ended, once it has."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise WrongError(f"host {self.name} is still there after {PATIENCE} s") from None


def step_behind(out: Path, step: int) -> int:
    """Wait until the newest checkpoint is of a later step than ``step``; that step."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        newest = RunDirectory.open(out).progress() if is_run(out) else None
        if newest is not None and newest["step"] > step:
            return int(newest["step"])
        time.sleep(0.1)
    raise WrongError(f"there is no checkpoint behind step {step} after {PATIENCE} s")


def lose(way: str, folder: Path) -> Path:
    """Train, lose a host in this way (none: ``alone``), and let the others finish. Returns the run."""
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
            say(f"host {lost.name} is lost ({way}); the newest checkpoint is of step {step}")
            if way == "rendezvous":
                say(f"the command of host two has ended with {two.code()}")
                two.start(way, out)
                say("started again there")
            if way == "unplugged":
                time.sleep(20)
                if one.process.poll() is not None:
                    raise WrongError("host one has not waited")
                lost.cable("up")
            lost.start(way, out)
            say(f"started again on host {lost.name}")
            say(f"went on: a checkpoint of step {step_behind(out, step)}")
        codes = [host.code() for host in hosts]
        say(f"ended with {codes[0]} and {codes[1]}")
        if codes != [0, 0]:
            raise WrongError("both should have ended with 0")
    except WrongError:
        for host in hosts:
            print(f"host {host.name} said:\n{host.said.read_text()[-5000:]}")
        raise
    finally:
        for host in hosts:
            host.kill()
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = ("killed", "unplugged", "rendezvous")
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of losing a host: {', '.join(ways)} (all)")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # in namespaces of its own
    options = parser.parse_args()
    if wrong := sorted(set(options.ways) - set(ways)):
        parser.error(f"no way of losing a host: {', '.join(wrong)}")
    if not options.alone:
        alone = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--kill-child", "--fork"]
        needed = shutil.which("unshare") and shutil.which("ip")
        if not needed or subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL).returncode:
            print("there can be no hosts here: unshare --user --map-root-user --net --mount, or ip, does not work")
            return 77
        return subprocess.run([*alone, sys.executable, *sys.argv, "--alone"]).returncode

    plug()
    with tempfile.TemporaryDirectory() as name:
        try:
            print("alone: nobody is lost")
            whole = (lose("alone", Path(name)) / "model.safetensors").read_bytes()
            for way in options.ways or ways:
                print(f"{way}:")
                found = (lose(way, Path(name)) / "model.safetensors").read_bytes()
                if found != whole:
                    raise WrongError("the bits are others than those of the run that lost nobody")
                print("  the same bits")
        except WrongError as error:
            print(error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
