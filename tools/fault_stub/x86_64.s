# Writes the address of a fault to standard error, then goes on to the handler before it.
#
# Arguments as of a signal handler with SA_SIGINFO. Only if the kernel says that it was a fault
# (si_code 1..127: neither sent by a process nor without an address). It runs on the signal stack
# and calls nothing but write(2). `next`, the 8 bytes before `prefix`, is filled in at run time.
# dipp/sandbox/faultaddress.py holds the assembled bytes; tests/dipp/test_fault_address.py compares.
.intel_syntax noprefix
.text
start:
  mov eax, [rsi+8]
  dec eax
  cmp eax, 0x7e
  ja 3f
  push rdi
  push rsi
  sub rsp, 24
  mov edi, 2
  lea rsi, [rip+prefix]
  mov edx, offset prefix_len
  mov eax, 1
  syscall
  mov rax, [rsp+24]
  mov rax, [rax+16]
  mov rsi, rsp
  mov ecx, 16
1:
  rol rax, 4
  mov edx, eax
  and edx, 15
  cmp edx, 10
  jb 2f
  add edx, 39
2:
  add edx, 48
  mov [rsi], dl
  inc rsi
  dec ecx
  jnz 1b
  mov byte ptr [rsi], 10
  mov edi, 2
  mov rsi, rsp
  mov edx, 17
  mov eax, 1
  syscall
  add rsp, 24
  pop rsi
  pop rdi
3:
  jmp [rip+next]
  .balign 8
next: .quad 0
prefix: .ascii "Fatal Python error: fault address 0x"
.set prefix_len, . - prefix
