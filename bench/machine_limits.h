// What one core of this machine can do at best: the limits that benchmarks are held against.
#pragma once

namespace wideep {

struct MachineLimits {
  double gflops = 0;            // fp32, fused multiply-adds on registers
  double gigabytes_second = 0;  // reading 64 MB in order, over and over
};

// CPU time of the calling thread.
double thread_seconds();

// Measured once, in about 0.2 s.
const MachineLimits& machine_limits();

}  // namespace wideep
