"""What can go wrong in a conversion, each with one sentence that names the file, key, tensor or argument.

ConvertError
├── ArgumentError       an argument is outside its range, or a file that it names is not what it should be
├── CheckpointError     the checkpoint is incomplete or damaged
├── DownloadError       a repository cannot be fetched
├── UnsupportedError    a sound checkpoint that is not a Command-R model as this converter knows it
└── OutputError         the GGUF file cannot be written
    └── VerifyError     the GGUF file does not hold what it was made from
"""


class ConvertError(Exception):
    """Base of all errors of this package."""


class ArgumentError(ConvertError):
    """An argument is outside its range, or a file that it names is not what it should be."""


class CheckpointError(ConvertError):
    """The checkpoint is incomplete or damaged."""


class DownloadError(ConvertError):
    """A repository cannot be fetched."""


class UnsupportedError(ConvertError):
    """The checkpoint is sound, but it is not a model that this converter knows."""


class OutputError(ConvertError):
    """The GGUF file cannot be written."""


class VerifyError(OutputError):
    """The GGUF file does not hold what it was made from."""
