"""Emulated CUDA runtime: each function returns its status first, as cuda-python's do."""

# ruff: noqa: N801, N802, N815

import ctypes
import enum
import os
import time

import numpy as np

DEVICE, HOST = {}, {}


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorLaunchFailure = 719


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


def _failing(step):
    return os.environ.get("TOPFIVE_EMULATED_FAILURE", "") == step


def cudaSetDevice(number):
    if os.environ.get("TOPFIVE_EMULATED_GPU") == "none":
        return (cudaError_t.cudaErrorNoDevice,)
    return (cudaError_t.cudaSuccess if number == 0 else cudaError_t.cudaErrorInvalidDevice,)


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
