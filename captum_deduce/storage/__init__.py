"""What is kept on disk: tensors with words about them, trained models, names of files."""

from captum_deduce.storage.cache import directory, obtain, path_for
from captum_deduce.storage.file_names import file_stem
from captum_deduce.storage.tensors import read, write

__all__ = [
    "directory",
    "file_stem",
    "obtain",
    "path_for",
    "read",
    "write",
]
