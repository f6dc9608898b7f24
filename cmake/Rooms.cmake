# One object library per room. A room sees only the rooms that it may import (the tests link exactly those, so an
# import in the wrong direction does not link), and all objects together make the library `moelora`.
add_library(moelora_settings INTERFACE)
target_include_directories(moelora_settings INTERFACE
  $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src>)
target_compile_options(moelora_settings INTERFACE -Wall -Wextra $<$<BOOL:${MOELORA_WERROR}>:-Werror>)
target_compile_definitions(moelora_settings INTERFACE $<$<BOOL:${MOELORA_CUDA}>:MOELORA_CUDA>)
if(MOELORA_SANITIZE)
  target_compile_options(moelora_settings INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1)
  target_link_options(moelora_settings INTERFACE -fsanitize=address,undefined)
elseif(MOELORA_SANITIZE_THREADS)
  target_compile_options(moelora_settings INTERFACE -fsanitize=thread -fno-omit-frame-pointer -g1)
  target_link_options(moelora_settings INTERFACE -fsanitize=thread)
endif()

include(${CMAKE_CURRENT_LIST_DIR}/Precompiled.cmake)

# Whatever a compilation holds, the templates of LibTorch's headers cost it about ten seconds: few and large ones.
function(moelora_unity target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${MOELORA_UNITY} UNITY_BUILD_BATCH_SIZE 16)
endfunction()

# Little is computed here: less optimisation, and a third less to compile.
function(moelora_rarely_hot target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

# moelora_room(NAME imports...): src/NAME/**.cpp; MOELORA_ROOM_<NAME> lists the room and all that it needs.
# MOELORA_LIBRARIES_OF_<NAME>: what this room alone is linked with (Dependencies.cmake).
function(moelora_room name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "${MOELORA_LEFT_OUT}")
  list(FILTER sources EXCLUDE REGEX "/kernels/cpu/isa/")  # Kernels.cmake compiles these
  if(NOT sources)
    file(TOUCH ${CMAKE_BINARY_DIR}/empty.cpp)
    set(sources ${CMAKE_BINARY_DIR}/empty.cpp)
  endif()
  add_library(moelora_${name} OBJECT ${sources} ${MOELORA_GENERATED_${name}})
  target_link_libraries(moelora_${name} PUBLIC moelora_settings moelora_sentencepiece moelora_libtorch
    nlohmann_json::nlohmann_json ${MOELORA_LIBRARIES_OF_${name}} Threads::Threads)
  moelora_unity(moelora_${name})
  moelora_precompiled(moelora_${name})
  set(all ${name})
  foreach(import IN LISTS ARGN)
    list(APPEND all ${MOELORA_ROOM_${import}})
  endforeach()
  list(REMOVE_DUPLICATES all)
  set(MOELORA_ROOM_${name} ${all} PARENT_SCOPE)
endfunction()

# Logging stands apart: spdlog wants Debian's fmt, LibTorch's include folder carries another one. Header-only, so that
# programs don't need libfmt.so.
add_library(moelora_log OBJECT ${CMAKE_SOURCE_DIR}/src/log/log.cpp)
target_compile_definitions(moelora_log PRIVATE FMT_HEADER_ONLY=1)
target_link_libraries(moelora_log PUBLIC moelora_settings PRIVATE spdlog::spdlog_header_only)
set(MOELORA_ROOM_log log)

include(${CMAKE_CURRENT_LIST_DIR}/Kernels.cmake)

moelora_room(io log)
moelora_room(nn io ${MOELORA_KERNELS_kernels})
moelora_room(adapter nn)
moelora_room(model nn)
moelora_room(data model)
moelora_room(eval data)
moelora_room(train adapter data)
moelora_room(verify adapter eval train)
moelora_room(experiment adapter eval train)

moelora_rarely_hot(moelora_verify)
moelora_rarely_hot(moelora_experiment)

set(MOELORA_ROOMS log io ${MOELORA_KERNELS_kernels} nn adapter model data eval train verify experiment)

add_library(moelora STATIC)
add_library(moelora::moelora ALIAS moelora)
foreach(room IN LISTS MOELORA_ROOMS)
  target_sources(moelora PRIVATE $<TARGET_OBJECTS:moelora_${room}>)
endforeach()
target_include_directories(moelora PUBLIC
  $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
target_compile_features(moelora PUBLIC cxx_std_20)
set_target_properties(moelora PROPERTIES LINKER_LANGUAGE CXX)
target_link_libraries(moelora PUBLIC moelora_sentencepiece moelora_libtorch nlohmann_json::nlohmann_json
  ${MOELORA_LIBRARIES_OF_adapter} ${MOELORA_LIBRARIES_OF_model} Threads::Threads)
if(MOELORA_SANITIZE)
  target_link_options(moelora PUBLIC -fsanitize=address,undefined)
elseif(MOELORA_SANITIZE_THREADS)
  target_link_options(moelora PUBLIC -fsanitize=thread)
endif()

# The program without its main(), so that tests can run it with another family of models registered.
file(GLOB cli_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cli/*.cpp)
list(FILTER cli_sources EXCLUDE REGEX "/main[.]cpp$")
add_library(moelora_program OBJECT ${cli_sources})
moelora_unity(moelora_program)
target_link_libraries(moelora_program PUBLIC moelora_settings moelora CLI11::CLI11)
moelora_rarely_hot(moelora_program)
moelora_precompiled(moelora_program)
add_executable(moelora_cli ${CMAKE_SOURCE_DIR}/src/cli/main.cpp)
set_target_properties(moelora_cli PROPERTIES OUTPUT_NAME moelora)
target_link_libraries(moelora_cli PRIVATE moelora_program)
moelora_precompiled(moelora_cli)
