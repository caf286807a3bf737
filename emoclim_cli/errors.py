"""Every error that emoclim raises on purpose.

    EmoclimError                exit code 1
    |-- UsageError              2   the command line asks for something that makes no sense
    |-- MediaError                  a photo or track of the user's
    |   `-- UnreadableMedia         this one file cannot be used, and why
    |       `-- MissingDecoder      not until an optional package is installed, which the hint names
    |-- LibraryError                the library folder
    |   |-- NoLibrary           3   nothing has been indexed yet
    |   `-- LibraryBusy             another emoclim is writing to it
    |-- ModelError                  weights, encoders, spaces
    |   `-- MissingWeights      3   not fetched, and fetching is forbidden or failed
    |-- LabelError                  labelled data for training: names file and line
    |-- PlotError                   a figure cannot be written
    |-- CueError                    a cue sheet cannot be used: names the file and the row
    |-- OutputError                 stdout cannot be written
    |-- WorkerError                 the processes that read files cannot be begun
    |-- ClusterError                the machines that were to share the work cannot be reached, or were lost
    `-- MissingExtra            3   an optional package is not installed; the hint does it

Every error carries a message that names the thing and, where there is one, a hint: the next command.
An exception of any other type that reaches the user is a bug.
"""

from __future__ import annotations


class EmoclimError(Exception):
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EmoclimError):
    exit_code = 2


class MediaError(EmoclimError):
    pass


class UnreadableMedia(MediaError):
    """`message` is the reason alone; whoever shows it puts the path before it."""


class MissingDecoder(UnreadableMedia):
    pass


class LibraryError(EmoclimError):
    pass


class NoLibrary(LibraryError):
    exit_code = 3


class LibraryBusy(LibraryError):
    pass


class ModelError(EmoclimError):
    pass


class MissingWeights(ModelError):
    exit_code = 3


class LabelError(EmoclimError):
    pass


class PlotError(EmoclimError):
    pass


class CueError(EmoclimError):
    pass


class OutputError(EmoclimError):
    pass


class WorkerError(EmoclimError):
    pass


class ClusterError(EmoclimError):
    pass


class MissingExtra(EmoclimError):
    exit_code = 3
