"""Emulated CUDA runtime: each function returns its status first, as cuda-python's do."""

# ruff: noqa: N801, N802, N815

import ctypes
import enum
import os
import time

import numpy as np

DEVICE, HOST, CURRENT = {}, {}, [0]


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorDevicesUnavailable = 46
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorLaunchFailure = 719


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


def _failing(step):
    return os.environ.get("TOPFIVE_EMULATED_FAILURE", "") == step


def _gpus():
    """(name, capability) in CUDA's order: by speed, here by capability; nvidia-smi's is the variables'."""
    first = os.environ.get("TOPFIVE_EMULATED_GPU", "Emulated GPU, 580.10, 9.0")
    second = os.environ.get("TOPFIVE_EMULATED_SECOND_GPU", "")
    rows = [text.split(", ") for text in (first, second) if text.count(", ") == 2]
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        rows.sort(key=lambda row: float(row[2]), reverse=True)
    return [(row[0], row[2]) for row in rows]


class cudaDeviceProp:
    def __init__(self, name, capability):
        self.name = name.encode()
        self.major, self.minor = (int(part) for part in capability.split("."))


def cudaGetDeviceProperties(number):
    return cudaError_t.cudaSuccess, cudaDeviceProp(*_gpus()[number])


def cudaSetDevice(number):
    if not _gpus():
        return (cudaError_t.cudaErrorNoDevice,)
    if _failing("busy"):
        return (cudaError_t.cudaErrorDevicesUnavailable,)
    CURRENT[:] = [number]
    return (cudaError_t.cudaSuccess if number < len(_gpus()) else cudaError_t.cudaErrorInvalidDevice,)


def current():
    """The current device as an engine is bound to it."""
    return ", ".join(_gpus()[CURRENT[0]])


class _Handle:
    at = 0.0

    def __int__(self):
        return id(self)


def cudaStreamCreate():
    return cudaError_t.cudaSuccess, _Handle()


def cudaStreamDestroy(stream):
    return (cudaError_t.cudaSuccess,)


def cudaStreamSynchronize(stream):
    failed = _failing("synchronize")
    return (cudaError_t.cudaErrorLaunchFailure if failed else cudaError_t.cudaSuccess,)


def _allocated(place, size):
    buffer = np.zeros(size, np.uint8)
    place[buffer.ctypes.data] = buffer
    return cudaError_t.cudaSuccess, buffer.ctypes.data


def cudaMalloc(size):
    if _failing("memory"):
        return cudaError_t.cudaErrorMemoryAllocation, None
    return _allocated(DEVICE, size)


def cudaMallocHost(size):
    return _allocated(HOST, size)


def _freed(place, pointer):
    return (
        cudaError_t.cudaErrorInvalidValue if place.pop(pointer, None) is None else cudaError_t.cudaSuccess,
    )


def cudaFree(pointer):
    return _freed(DEVICE, pointer)


def cudaFreeHost(pointer):
    return _freed(HOST, pointer)


def cudaMemcpyAsync(to, source, size, kind, stream):
    places = (DEVICE, HOST) if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else (HOST, DEVICE)
    fits = to in places[0] and source in places[1] and size <= min(places[0][to].size, places[1][source].size)
    if not fits:
        return (cudaError_t.cudaErrorInvalidValue,)
    ctypes.memmove(to, source, size)
    return (cudaError_t.cudaSuccess,)


def cudaEventCreate():
    return cudaError_t.cudaSuccess, _Handle()


def cudaEventDestroy(event):
    return (cudaError_t.cudaSuccess,)


def cudaEventRecord(event, stream):
    event.at = time.perf_counter()
    return (cudaError_t.cudaSuccess,)


def cudaEventElapsedTime(start, end):
    return cudaError_t.cudaSuccess, 1e3 * (end.at - start.at)
