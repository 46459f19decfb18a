// Writes the address of a fault to standard error, then goes on to the handler before it.
//
// Arguments as of a signal handler with SA_SIGINFO. Only if the kernel says that it was a fault
// (si_code 1..127: neither sent by a process nor without an address). It runs on the signal stack
// and calls nothing but write(2). `next`, the 8 bytes before `prefix`, is filled in at run time.
// dipp/sandbox/faultaddress.py holds the assembled bytes; tests/dipp/test_fault_address.py compares.
.text
start:
  ldr w9, [x1, #8]
  sub w9, w9, #1
  cmp w9, #0x7e
  b.hi 3f
  stp x0, x1, [sp, #-48]!
  str x30, [sp, #16]
  mov x0, #2
  adr x1, prefix
  mov x2, #prefix_len
  mov x8, #64
  svc #0
  ldr x3, [sp, #8]
  ldr x3, [x3, #16]
  add x1, sp, #24
  mov w4, #16
1:
  ror x3, x3, #60
  and w5, w3, #15
  cmp w5, #10
  b.lo 2f
  add w5, w5, #39
2:
  add w5, w5, #48
  strb w5, [x1], #1
  subs w4, w4, #1
  b.ne 1b
  mov w5, #10
  strb w5, [x1]
  mov x0, #2
  add x1, sp, #24
  mov x2, #17
  mov x8, #64
  svc #0
  ldr x30, [sp, #16]
  ldp x0, x1, [sp], #48
3:
  ldr x9, next
  br x9
  .balign 8
next: .quad 0
prefix: .ascii "Fatal Python error: fault address 0x"
.set prefix_len, . - prefix
