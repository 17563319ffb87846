# nvcc as a language, and NCCL where it is found.

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a-real CACHE STRING "What nvcc compiles for")
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

# CMake 3.25 knows no C++20 dialect for nvcc 13, so it is told.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
target_compile_options(wideep_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr
  # Conversions to const that nvcc says are never called, and assignments of [[nodiscard]] classes.
  -diag-suppress=554,2810 -Xcompiler=-Wall,-Wextra,-Werror>)

find_library(nccl_library NAMES nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
find_path(nccl_include NAMES nccl_device.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(nccl_library AND nccl_include)
  set(WIDEEP_NCCL ON)
  add_library(wideep_nccl INTERFACE)
  target_include_directories(wideep_nccl SYSTEM INTERFACE ${nccl_include})
  target_link_libraries(wideep_nccl INTERFACE ${nccl_library} CUDA::cudart_static)
else()
  set(WIDEEP_NCCL OFF)
  message(WARNING "NCCL 2.28 or newer with its device headers was not found: the all-to-all works "
                  "between the GPUs of one process only")
endif()
