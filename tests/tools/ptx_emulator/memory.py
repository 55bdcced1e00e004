"""Global and shared memory that notice wrong accesses."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from ptx_emulator.faults import Fault

BUFFER_BIT = 40  # an address is a buffer's number above this bit and an offset below
POISON = 0xFF  # bytes that nobody wrote: NaN in every floating format
NOBODY, SEVERAL = -1, -2


class GlobalMemory:
    """The storages of tensors; what is written goes into them."""

    def __init__(self) -> None:
        self.buffers: dict[int, np.ndarray] = {}
        self._numbers: dict[int, int] = {}

    def pointer(self, tensor: torch.Tensor) -> int:
        """Address of the tensor's first element."""
        storage = tensor.untyped_storage()
        number = self._numbers.setdefault(storage.data_ptr(), len(self._numbers) + 1)
        raw = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
        self.buffers[number] = np.frombuffer(raw, dtype=np.uint8)
        return (number << BUFFER_BIT) + tensor.storage_offset() * tensor.element_size()

    def read(self, address: np.ndarray, size: int, active: np.ndarray, what: str) -> np.ndarray:
        """(threads, size) bytes; poison for threads that are not active."""
        out = np.full((len(address), size), POISON, np.uint8)
        for threads, buffer, places in self._places(address, size, active, what):
            out[threads] = buffer[places]
        return out

    def write(self, address: np.ndarray, data: np.ndarray, active: np.ndarray, what: str) -> None:
        for threads, buffer, places in self._places(address, data.shape[1], active, what):
            buffer[places] = data[threads]

    def _places(
        self, address: np.ndarray, size: int, active: np.ndarray, what: str
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        numbers, found = address >> np.uint64(BUFFER_BIT), []
        for number in np.unique(numbers[active]):
            buffer = self.buffers.get(int(number))
            if buffer is None:
                raise Fault(f"wild address: {what}")
            threads = np.nonzero(active & (numbers == number))[0]
            offset = (address[threads] & np.uint64((1 << BUFFER_BIT) - 1)).astype(np.int64)
            _check(offset, size, buffer.size, what)
            found.append((threads, buffer, offset[:, None] + np.arange(size)))
        return found


class SharedMemory:
    """One block's; knows for every byte which warp wrote and which read it since the last barrier."""

    def __init__(self, size: int, threads: int) -> None:
        self.bytes = np.full(size, POISON, np.uint8)
        self.defined = np.zeros(size, bool)
        self.writer = np.full(size, NOBODY, np.int16)
        self.reader = np.full(size, NOBODY, np.int16)
        self.warp = np.arange(threads, dtype=np.int16) // 32
        self.touched = False

    def barrier(self) -> None:
        """What was written is now everybody's, what was read may be overwritten."""
        if self.touched:
            self.writer.fill(NOBODY)
            self.reader.fill(NOBODY)
            self.touched = False

    def read(self, address: np.ndarray, size: int, active: np.ndarray, what: str) -> np.ndarray:
        out = np.full((len(address), size), POISON, np.uint8)
        threads, places = self._places(address, size, active, what)
        warp, writer = self.warp[threads][:, None], self.writer[places]
        if not self.defined[places].all():
            raise Fault(f"shared memory is read before it is written: {what}")
        if ((writer != NOBODY) & (writer != warp)).any():
            raise Fault(f"shared memory is read that another warp wrote since the last barrier: {what}")
        reader = self.reader[places]
        self.reader[places] = np.where((reader == NOBODY) | (reader == warp), warp, SEVERAL)
        self._several(self.reader, places, warp)
        self.touched = True
        out[threads] = self.bytes[places]
        return out

    def write(self, address: np.ndarray, data: np.ndarray, active: np.ndarray, what: str) -> None:
        threads, places = self._places(address, data.shape[1], active, what)
        self._take(threads, places, what)
        self.bytes[places] = data[threads]
        self.defined[places] = True

    def promise(self, address: np.ndarray, size: int, active: np.ndarray, what: str) -> None:
        """An asynchronous copy will write here: until it is waited for, nothing is."""
        threads, places = self._places(address, size, active, what)
        self._take(threads, places, what)
        self.defined[places] = False

    def keep(self, address: np.ndarray, data: np.ndarray, active: np.ndarray, what: str) -> None:
        """An asynchronous copy has arrived, for the threads that asked for it."""
        threads, places = self._places(address, data.shape[1], active, what)
        self.writer[places] = self.warp[threads][:, None]
        self.touched = True
        self.bytes[places] = data[threads]
        self.defined[places] = True

    def _take(self, threads: np.ndarray, places: np.ndarray, what: str) -> None:
        """Make the threads' warps the writers; nobody else may have read here since the last barrier."""
        warp, reader = self.warp[threads][:, None], self.reader[places]
        if ((reader != NOBODY) & (reader != warp)).any():
            raise Fault(f"shared memory is overwritten that another warp read since the last barrier: {what}")
        self.writer[places] = warp
        self._several(self.writer, places, warp)  # several warps may write the same value
        self.touched = True

    @staticmethod
    def _several(who: np.ndarray, places: np.ndarray, warp: np.ndarray) -> None:
        """Places that more than one warp touched in the same instruction."""
        clash = who[places] != warp
        if clash.any():
            who[places[clash]] = SEVERAL

    def _places(self, address: np.ndarray, size: int, active: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        threads = np.nonzero(active)[0]
        offset = address[threads].astype(np.int64)
        _check(offset, size, self.bytes.size, what)
        return threads, offset[:, None] + np.arange(size)


def _check(offset: np.ndarray, size: int, available: int, what: str) -> None:
    if len(offset) == 0:
        return
    if (offset % min(size, 16)).any():
        raise Fault(f"misaligned access of {size} bytes: {what}")
    if offset.min() < 0 or offset.max() + size > available:
        raise Fault(f"out of bounds, [{offset.min()}, {offset.max() + size}) of {available}: {what}")
