// For functions that kernels call as well as the host.
#pragma once

#ifdef __CUDACC__
#define WIDEEP_HOST_DEVICE __host__ __device__
#else
#define WIDEEP_HOST_DEVICE
#endif
