from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from emoclim_cli.workers import MOST_MEMORY, Lost, in_processes, on_threads


def doubled(number: int) -> int:
    return 2 * number


def large(number: int) -> np.ndarray:
    return np.full(1 << 20, number, np.float32)


def process_of(_number: int) -> int:
    return os.getpid()


def odd_ones(number: int) -> int:
    """Numbers below ten end their process, each in another way."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif number == 2:
        os.abort()
    elif number == 3:
        os._exit(5)
    elif number == 4:
        time.sleep(600)
    elif number == 5:
        raise ValueError("of its own")
    return number


def once_unlucky(entry: tuple[str, int]) -> int:
    """The first time number 3 ends its process."""
    folder, number = entry
    mark = Path(folder, "unlucky")
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def ends_later(number: int) -> int:
    """Its process ends a moment after the result was handed over."""
    threading.Timer(0.3, os.abort).start()
    return number


def greedy(number: int) -> str:
    try:
        return str(len(bytearray(number)))
    except MemoryError:
        return "refused"


def patience(_number: int) -> float:
    return 30.0


def noted(entry: tuple[str, int]) -> int:
    folder, number = entry
    Path(folder, str(number)).touch()
    time.sleep(0.05)
    return number


class TestInProcesses:
    def test_results_in_order_from_other_processes(self) -> None:
        assert list(in_processes(doubled, range(40), 2, 5, patience)) == [2 * i for i in range(40)]
        processes = set(in_processes(process_of, range(40), 2, 5, patience))
        assert os.getpid() not in processes and 1 <= len(processes) <= 2

    def test_nothing_to_do(self) -> None:
        assert list(in_processes(doubled, [], 2, 5, patience)) == []

    def test_arrays(self) -> None:
        for i, array in enumerate(in_processes(large, range(8), 2, 3, patience)):
            assert array.shape == (1 << 20,) and (array == i).all()

    def test_a_crash_or_a_hang_costs_one_call(self) -> None:
        limits = {4: 1.0}
        numbers = [10, 1, 11, 2, 3, 12, 4, 13, 14, 15]
        results = list(in_processes(odd_ones, numbers, 2, 4, lambda number: limits.get(number, 30.0)))
        assert [one.argument if isinstance(one, Lost) else one for one in results] == numbers
        reasons = {one.argument: one.reason for one in results if isinstance(one, Lost)}
        assert reasons == {
            1: "crashed its decoder (SIGSEGV)",
            2: "crashed its decoder (SIGABRT)",
            3: "crashed its decoder (exit code 5)",
            4: "could not be read within 1 s",
        }

    def test_a_call_that_is_lost_by_accident_is_made_again(self, tmp_path: Path) -> None:
        assert list(in_processes(once_unlucky, [(str(tmp_path), i) for i in range(6)], 2, 3, patience)) == list(range(6))

    def test_a_process_that_ends_between_two_calls(self) -> None:
        """Nothing is under way then: all that wait are read and wait to be taken."""
        stream = in_processes(ends_later, range(8), 1, 2, patience)
        results = []
        for result in stream:
            results.append(result)
            time.sleep(1.0)
        assert results == list(range(8))

    def test_processes_that_cannot_begin(self, tmp_path: Path) -> None:
        """As in a script without a guard: each process would run the script again."""
        script = tmp_path / "script.py"
        script.write_text(
            "from emoclim_cli.workers import in_processes\nprint(list(in_processes(len, ['a', 'bb'], 1, 2, lambda _: 9.0)))\n"
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and done.stdout == ""
        assert "WorkerError: the processes that read files end as soon as they begin" in done.stderr

    @pytest.mark.skipif(sys.platform == "win32", reason="signals")
    def test_processes_that_are_just_beginning_take_no_ctrl_c(self, tmp_path: Path) -> None:
        code = f"""if True:
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_workers import doubled, patience
            from emoclim_cli.workers import in_processes
            if __name__ == "__main__":
                try:
                    print("begun", flush=True)
                    list(in_processes(doubled, range(1000000), 2, 6, patience))
                except KeyboardInterrupt:
                    sys.exit(130)
        """
        for delay_s in (0.1, 0.2, 0.3, 0.5):
            child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(delay_s)
            os.killpg(child.pid, signal.SIGINT)
            _, said = child.communicate(timeout=60)
            assert b"Traceback" not in said

    def test_its_own_exception_comes_through(self) -> None:
        with pytest.raises(ValueError, match="of its own"):
            list(in_processes(odd_ones, [10, 5, 11], 2, 4, patience))

    def test_no_more_than_the_window_is_read_ahead(self, tmp_path: Path) -> None:
        stream = in_processes(noted, ((str(tmp_path), i) for i in range(100)), 2, 6, patience)
        assert list(islice(stream, 5)) == [0, 1, 2, 3, 4]
        time.sleep(1)
        assert len(os.listdir(tmp_path)) <= 5 + 6 + 1
        stream.close()
        before = len(os.listdir(tmp_path))
        time.sleep(0.3)
        assert len(os.listdir(tmp_path)) == before

    @pytest.mark.skipif(sys.platform != "linux", reason="the limit of other systems does not count all memory")
    def test_memory_is_bounded(self) -> None:
        assert list(in_processes(greedy, [1000, MOST_MEMORY, 1000], 1, 4, patience)) == ["1000", "refused", "1000"]

    @pytest.mark.skipif(sys.platform == "win32", reason="signals")
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    def test_no_process_outlives_its_parent(self, number: int, tmp_path: Path) -> None:
        """SIGINT goes to the whole group, as Ctrl-C does; the others to the parent alone."""
        code = f"""if True:
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_workers import noted, patience, process_of
            from emoclim_cli.cli import _terminate
            from emoclim_cli.workers import in_processes
            import signal
            signal.signal(signal.SIGTERM, _terminate)
            if __name__ == "__main__":
                stream = in_processes(noted, (({str(tmp_path)!r}, i) for i in range(100000)), 2, 6, patience)
                for number in stream:
                    print(number, flush=True)
        """
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None and child.stderr is not None
        for _ in range(3):
            child.stdout.readline()
        if number == signal.SIGINT:
            os.killpg(child.pid, number)
        else:
            os.kill(child.pid, number)
        # Their ends of the pipes close with the last of the processes.
        _, said = child.communicate(timeout=60)
        assert child.returncode == (128 + number if number == signal.SIGTERM else -number)
        assert said.count(b"Traceback") == (number == signal.SIGINT)  # of this script alone
        time.sleep(0.2)
        before = len(os.listdir(tmp_path))
        time.sleep(0.5)
        assert len(os.listdir(tmp_path)) == before


def test_on_threads_results_are_in_order_and_the_window_holds() -> None:
    begun: list[int] = []

    def note(number: int) -> int:
        begun.append(number)
        return number

    stream = on_threads(note, range(100), 2, 5)
    assert list(islice(stream, 10)) == list(range(10))
    assert len(begun) <= 10 + 5 + 1
    stream.close()
