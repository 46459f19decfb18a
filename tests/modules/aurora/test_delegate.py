"""External delegates, as a board's NPU has one: loaded if given, else a clear error of the module.

The delegate that loads is built here with the C compiler. It takes no operation, so the model runs
on the processor; that the runtime asked it is what can be proven without the hardware.
"""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import warnings
from pathlib import Path

import kit
import numpy as np
import pytest

from dipp.sdk import ModuleError
from modules.aurora.aurora_cnn import MODELS
from modules.common.tflite import Model, ModelError

# The structure is that of TfLiteDelegate in TensorFlow Lite 2.14 (c/common.h).
LOADS = """
#include <stdint.h>
#include <stdlib.h>
typedef struct Delegate {
    void *data;
    int (*prepare)(void *, struct Delegate *);
    void *copy_from, *copy_to, *free_handle;
    int64_t flags;
    void *builder;
} Delegate;
int times_asked = 0;
static int prepare(void *context, Delegate *self) { times_asked++; return 0; }
void *tflite_plugin_create_delegate(char **k, char **v, size_t n, void (*report)(const char *)) {
    Delegate *made = calloc(1, sizeof *made);
    made->prepare = prepare;
    return made;
}
void tflite_plugin_destroy_delegate(void *delegate) { free(delegate); }
"""
REFUSES = """
#include <stddef.h>
void *tflite_plugin_create_delegate(char **k, char **v, size_t n, void (*report)(const char *)) {
    report("no NPU\\nhere");
    return NULL;
}
void tflite_plugin_destroy_delegate(void *delegate) {}
"""
FOREIGN = "int answer = 42;"


def build(folder: Path, source: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "delegate.c").write_text(source)
    library = folder / "libdelegate.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, folder / "delegate.c"], check=True, timeout=60
    )
    return library


def refused(delegate: str) -> str:
    """Return why the module refuses; nothing may go to stderr behind its back."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModuleError) as caught:
            kit.run("aurora_cnn", [], delegate=delegate)
        assert caught.value.code == 2
        text = str(caught.value)
        del caught
        gc.collect()
    return text


def test_a_missing_delegate_is_error_2() -> None:
    assert "/nowhere/libvx_delegate.so" in refused("/nowhere/libvx_delegate.so")


def test_a_file_that_is_no_library_is_error_2(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_text("not ELF")
    assert "x.so" in refused(str(tmp_path / "x.so"))


def test_a_library_that_is_no_delegate_is_error_2(tmp_path: Path) -> None:
    assert "tflite_plugin_create_delegate" in refused(str(build(tmp_path, FOREIGN)))


def test_a_delegate_without_its_hardware_is_error_2(tmp_path: Path) -> None:
    assert "no NPU here" in refused(str(build(tmp_path, REFUSES)))


@pytest.mark.parametrize("name", ["aurora_unet.tflite", "aurora_unet_int8.tflite"])
def test_a_delegate_that_loads_is_asked_and_the_model_runs(tmp_path: Path, name: str) -> None:
    library = build(tmp_path, LOADS)
    model = Model(MODELS / name, str(library))
    assert ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "times_asked").value >= 1
    plain = Model(MODELS / name)
    values = np.zeros(model.input_shape, np.float32)
    np.testing.assert_allclose(model.run(values), plain.run(values), atol=0.02)


def test_the_error_of_a_model_names_the_file() -> None:
    with pytest.raises(ModelError, match="nowhere"):
        Model(MODELS / "nowhere.tflite")
