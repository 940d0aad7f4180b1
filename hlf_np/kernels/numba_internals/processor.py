"""The vector registers of the processor that this process runs on."""

import llvmlite.binding as llvm

LANES = 16  # float32 values of a vector: one register of 512 bits, or two of 256 bits
HAS_512_BIT_REGISTERS = bool(llvm.get_host_cpu_features().get("avx512f"))
