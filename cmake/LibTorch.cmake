# Provides the imported target moelora_libtorch (LibTorch for C++, from a folder that holds include/ and lib/).
#
# Where it comes from, first hit wins:
#   1. MOELORA_LIBTORCH_ROOT, or an entry of CMAKE_PREFIX_PATH, that holds include/ATen/ATen.h
#   2. the PyPI wheel, downloaded once into MOELORA_LIBTORCH_DOWNLOAD_DIR
#
# find_package(Torch) is not used: that of a CUDA wheel demands nvcc even for programs that never touch a GPU.

set(MOELORA_LIBTORCH_ROOT "" CACHE PATH "Folder of a LibTorch (holds include/ and lib/); empty: search, then download")
set(MOELORA_LIBTORCH_VERSION 2.11.0 CACHE STRING "Version of the wheel to download (2.7.1 for V100)")
set(MOELORA_LIBTORCH_DOWNLOAD_DIR ${CMAKE_BINARY_DIR}/libtorch CACHE PATH "Where a downloaded LibTorch is unpacked")
option(MOELORA_CUDA "Link LibTorch's CUDA libraries too (needs the CUDA toolkit)" OFF)

# Only headers and libraries of the wheel are used, so which Python runs pip does not matter.
function(_moelora_pip dir)
  execute_process(
    COMMAND ${MOELORA_PYTHON} -m pip install --quiet --disable-pip-version-check --root-user-action=ignore
            --no-cache-dir --timeout 60 --no-deps --only-binary=:all: --python-version 3.11 --target ${dir} ${ARGN}
    RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "LibTorch could not be downloaded with '${MOELORA_PYTHON} -m pip' (${ARGN}). "
      "Install python3-pip, check the network, or point CMAKE_PREFIX_PATH to an unpacked LibTorch.")
  endif()
endfunction()

# The libraries that libtorch_cpu.so itself needs, and with CUDA those that the toolkit does not have.
function(_moelora_cuda_packages dir out)
  if(MOELORA_LIBTORCH_VERSION VERSION_GREATER_EQUAL 2.8)
    set(packages nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
    if(MOELORA_CUDA)
      list(APPEND packages nvidia-cufile==1.15.1.6 nvidia-cusparselt-cu13==0.8.0 nvidia-nvshmem-cu13==3.4.5)
    endif()
  elseif(MOELORA_CUDA)
    # A toolkit of CUDA 12.6 is rarely at hand: all libraries come as wheels, in the versions that the wheel asks for.
    file(GLOB metadata ${dir}/torch-*.dist-info/METADATA)
    file(STRINGS ${metadata} required REGEX "^Requires-Dist: nvidia-")
    set(packages "")
    foreach(line IN LISTS required)
      string(REGEX MATCH "nvidia-[a-z0-9-]+==[0-9.]+" package "${line}")
      list(APPEND packages ${package})
    endforeach()
  else()
    set(packages nvidia-cuda-runtime-cu12==12.6.77 nvidia-cuda-cupti-cu12==12.6.80)
  endif()
  set(${out} ${packages} PARENT_SCOPE)
endfunction()

# A folder with the final name is always complete: it is filled under another name, then renamed.
function(_moelora_download_libtorch dir)
  find_program(MOELORA_PYTHON NAMES python3 REQUIRED)
  get_filename_component(parent ${dir} DIRECTORY)
  file(MAKE_DIRECTORY ${parent})
  file(LOCK ${dir}.lock GUARD FUNCTION TIMEOUT 1800)
  if(EXISTS ${dir})  # another configure run finished it while this one waited
    return()
  endif()
  message(STATUS "Downloading LibTorch ${MOELORA_LIBTORCH_VERSION} (about 530 MB) into ${dir}")
  file(REMOVE_RECURSE ${dir}.partial)
  _moelora_pip(${dir}.partial torch==${MOELORA_LIBTORCH_VERSION})
  _moelora_cuda_packages(${dir}.partial packages)
  _moelora_pip(${dir}.partial ${packages})
  file(RENAME ${dir}.partial ${dir})
endfunction()

if(NOT MOELORA_LIBTORCH_ROOT)
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
    if(EXISTS ${prefix}/include/ATen/ATen.h)
      set(MOELORA_LIBTORCH_ROOT ${prefix} CACHE PATH "" FORCE)
      break()
    endif()
  endforeach()
endif()
if(NOT MOELORA_LIBTORCH_ROOT)
  if(NOT EXISTS ${MOELORA_LIBTORCH_DOWNLOAD_DIR})
    _moelora_download_libtorch(${MOELORA_LIBTORCH_DOWNLOAD_DIR})
  endif()
  set(MOELORA_LIBTORCH_ROOT ${MOELORA_LIBTORCH_DOWNLOAD_DIR}/torch CACHE PATH "" FORCE)
endif()
foreach(_file include/ATen/ATen.h lib/libtorch_cpu.so lib/libc10.so)
  if(NOT EXISTS ${MOELORA_LIBTORCH_ROOT}/${_file})
    message(FATAL_ERROR "MOELORA_LIBTORCH_ROOT=${MOELORA_LIBTORCH_ROOT} holds no ${_file}; "
      "remove that folder to download it again, or point MOELORA_LIBTORCH_ROOT to an unpacked LibTorch.")
  endif()
endforeach()
message(STATUS "LibTorch: ${MOELORA_LIBTORCH_ROOT}")

include(${CMAKE_CURRENT_LIST_DIR}/LibTorchTarget.cmake)
moelora_add_libtorch_target(${MOELORA_LIBTORCH_ROOT} ${MOELORA_CUDA})
