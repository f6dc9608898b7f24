# moelora_add_libtorch_target(root cuda): the imported target moelora_libtorch for the LibTorch in `root`.
# Shared by the build and by the installed package configuration.
function(moelora_add_libtorch_target root cuda)
  if(TARGET moelora_libtorch)
    return()
  endif()
  add_library(moelora_libtorch INTERFACE IMPORTED GLOBAL)
  target_include_directories(moelora_libtorch SYSTEM INTERFACE
    ${root}/include ${root}/include/torch/csrc/api/include)
  set(lib ${root}/lib)
  target_link_directories(moelora_libtorch INTERFACE ${lib})
  # The wheel's libraries find their own neighbours by RPATH; the linker need not resolve those.
  target_link_options(moelora_libtorch INTERFACE LINKER:--allow-shlib-undefined LINKER:-rpath,${lib})
  target_link_libraries(moelora_libtorch INTERFACE ${lib}/libtorch_cpu.so ${lib}/libc10.so)
  # at::parallel_for is a header that runs serially unless OpenMP is on; the runtime is the one LibTorch itself loads.
  target_compile_options(moelora_libtorch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
  file(GLOB gomp ${lib}/libgomp*.so*)
  if(gomp)
    list(GET gomp 0 gomp)
    target_link_libraries(moelora_libtorch INTERFACE ${gomp})
  else()
    target_link_options(moelora_libtorch INTERFACE -fopenmp)
  endif()
  if(cuda)
    find_package(CUDAToolkit REQUIRED)
    # Registration happens when the libraries load, so they are kept even if no symbol is used directly.
    target_link_libraries(moelora_libtorch INTERFACE
      -Wl,--no-as-needed ${lib}/libtorch_cuda.so ${lib}/libc10_cuda.so ${lib}/libtorch.so -Wl,--as-needed CUDA::cudart)
  endif()
endfunction()
