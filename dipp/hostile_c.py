"""The native module that misbehaves as its parameter `case` says. Pure."""

from __future__ import annotations

C_SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
#include <unistd.h>

typedef struct {
    long mtype; int32_t num_images, batch_size, shmid, pipeline_id; void *data;
} ImageBatch;
typedef struct {
    char *key; int32_t value_case;
    union { int bool_value; int32_t int_value; float float_value; char *string_value; };
} Param;
typedef struct { size_t n; Param **items; } ParamList;

static int zero;
static int overflow(volatile char *from) {
    volatile char here[65536];
    here[0] = from[0];
    return overflow(here) + here[1];
}

ImageBatch run(ImageBatch *input, ParamList *params, int *error_pipe) {
    ImageBatch out = *input;
    const char *what = "";
    for (size_t i = 0; i < params->n; i++)
        if (!strcmp(params->items[i]->key, "case") && params->items[i]->value_case == 5)
            what = params->items[i]->string_value;
    #define CASE(name) if (!strcmp(what, name))
    CASE("null") *(volatile int *)(intptr_t)zero = 1;
    CASE("rodata") *(volatile char *)"constant" = 1;
    CASE("jump") ((void (*)(void))(intptr_t)zero)();
    CASE("divide") out.num_images = out.batch_size / *(volatile int *)&zero;
    CASE("illegal") __builtin_trap();
    CASE("abort") abort();
    CASE("double-free") { char *volatile p = malloc(64); free(p); free(p); }
    CASE("overflow") out.num_images = overflow("x");
    CASE("exit-1") exit(1);
    CASE("exit-0") exit(0);
    CASE("code") {
        uint16_t code = params->items[1]->int_value;
        if (write(error_pipe[1], &code, sizeof code) != 2) abort();
        exit(1);
    }
    CASE("half-a-code") { if (write(error_pipe[1], "x", 1) != 1) abort(); exit(1); }
    CASE("memory") memset(malloc((size_t)64 << 30), 1, 64);
    CASE("spin") for (;;) *(volatile int *)&zero;
    CASE("remove") shmctl(input->shmid, IPC_RMID, 0);
    CASE("leak") shmget(IPC_PRIVATE, 4096, 0600);
    CASE("leak-and-crash") { shmget(IPC_PRIVATE, 4096, 0600); abort(); }
    CASE("other-segment") out.shmid += 12345;
    CASE("size-negative") out.batch_size = -5;
    CASE("size-zero") out.batch_size = 0;
    CASE("size-large") out.batch_size += 4096;
    CASE("count-large") out.num_images = 1000000;
    CASE("count-negative") out.num_images = -1;
    CASE("count-zero") out.num_images = 0;
    CASE("pipeline") out.pipeline_id = 6;
    CASE("meta-size") { uint32_t *p = shmat(input->shmid, 0, 0); *p = 0x7fffffff; shmdt(p); }
    CASE("invert") {
        unsigned char *p = shmat(input->shmid, 0, 0);
        uint32_t skip; memcpy(&skip, p, 4);
        for (int i = 4 + skip; i < input->batch_size; i++) p[i] ^= 0xff;
        shmdt(p);
    }
    CASE("new-segment") {
        unsigned char *from = shmat(input->shmid, 0, 0);
        out.shmid = shmget(IPC_PRIVATE, input->batch_size + 100, 0600);
        memcpy(shmat(out.shmid, 0, 0), from, input->batch_size);
        shmctl(input->shmid, IPC_RMID, 0);
    }
    return out;
}
"""
