# The CUDA half's outside parts: the toolkit, and the headers that tools/setup.sh unpacked into
# build/deps. Targets wideep_flashinfer, wideep_cutlass and wideep_deepgemm are interface libraries of
# headers; they exist only where the headers do, and only src/kernels/adapters may link them.

find_package(CUDAToolkit REQUIRED)

function(wideep_headers name folder)
  set(include ${CMAKE_BINARY_DIR}/deps/${folder}/include)
  if(NOT EXISTS ${include})
    message(WARNING "${folder} headers are not in ${include}: run tools/setup.sh where a package "
                    "registry can be reached")
    return()
  endif()
  add_library(wideep_${name} INTERFACE)
  target_include_directories(wideep_${name} SYSTEM INTERFACE ${include})
endfunction()

wideep_headers(cccl cccl)
wideep_headers(cutlass cutlass)
wideep_headers(flashinfer flashinfer)
wideep_headers(deepgemm deepgemm)

# FlashInfer needs a CCCL newer than the toolkit's, found first; DeepGEMM is compiled with the same
# CUTLASS as FlashInfer, so that one program never holds two.
if(TARGET wideep_flashinfer)
  target_link_libraries(wideep_cutlass INTERFACE wideep_cccl)
  target_link_libraries(wideep_flashinfer INTERFACE wideep_cutlass)
endif()
if(TARGET wideep_deepgemm AND TARGET wideep_cutlass)
  target_link_libraries(wideep_deepgemm INTERFACE wideep_cutlass)
endif()
