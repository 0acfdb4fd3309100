"""Pieces of tensors in torch.distributed.checkpoint directories: written as they lie, read from any others."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from glyphflow.core.errors import InputError
from glyphflow.train.pieces import Piece


def write_pieces(state: dict[str, Piece], directory: Path, group: ProcessGroup | None) -> None:
    """Write ``state`` into ``directory``, all processes of ``group`` together."""
    with _as_itself():
        writer = FileSystemWriter(directory)
        dcp_save(state, storage_writer=writer, planner=_SavePieces(), process_group=group, no_dist=group is None)


def read_pieces(state: dict[str, Piece], path: Path) -> None:
    """Fill ``state`` from the checkpoint ``path``; raises InputError where it does not fit or cannot be read."""
    try:
        with _as_itself():
            dcp_load(state, storage_reader=FileSystemReader(path), planner=_LoadPieces(), no_dist=True)
    except Exception as error:
        raise InputError(
            f"The checkpoint {path} does not fit this model or is damaged ({' '.join(str(error).split())[:200]}); remove it "
            "to continue from the one before."
        ) from error


@contextlib.contextmanager
def _as_itself() -> Iterator[None]:
    """Re-raise the exception that dcp wrapped, so that callers can tell a full disk from a bug.

    Its remark that no process group is there is not shown: one process is what was asked for.
    """
    failures: list[BaseException] = []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch.distributed")
            yield
    except CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
    for failure in failures:  # raising replaces a context, here that of a full disk, but not a cause
        raise failure from (failure.__cause__ or failure.__context__)


def read_metadata(path: Path) -> Metadata:
    """What the checkpoint ``path`` holds; raises InputError where that cannot be read."""
    try:
        return FileSystemReader(path).read_metadata()
    except Exception as error:
        raise InputError(
            f"The checkpoint {path} cannot be read ({error}); remove it to continue from the one before."
        ) from error


class _SavePieces(DefaultSavePlanner):
    """Plans the writing of pieces; what several processes hold alike is written by one of them, dealt out evenly."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([_write_item(name, piece) for name, piece in self.state_dict.items() if _holds(piece)])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        piece: Piece = self.state_dict[write_item.index.fqn]
        return piece.data


class _LoadPieces(DefaultLoadPlanner):
    """Plans the reading of pieces from whatever pieces were written."""

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        items = []
        for name, piece in self.state_dict.items():
            stored = self.metadata.state_dict_metadata.get(name)
            if not isinstance(stored, TensorStorageMetadata):
                raise InputError(f"{name} is missing")
            if tuple(stored.size) != piece.whole:
                raise InputError(f"{name} is {tuple(stored.size)} there and {piece.whole} here")
            if _holds(piece):
                items += create_read_items_for_chunk_list(name, stored, [_chunk(piece)])
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        piece: Piece = self.state_dict[index.fqn]
        return piece.data


def _write_item(name: str, piece: Piece) -> WriteItem:
    chunk = _chunk(piece)
    properties = TensorProperties.create_from_tensor(piece.data)
    return WriteItem(
        index=MetadataIndex(name, chunk.offsets),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=torch.Size(piece.whole)),
    )


def _chunk(piece: Piece) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(piece.offset), piece.data.shape)


def _holds(piece: Piece) -> bool:
    """False where there are more processes than rows to shard."""
    return piece.data.numel() > 0
