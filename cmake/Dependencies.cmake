# Debian packages: libsentencepiece-dev nlohmann-json3-dev libspdlog-dev libcli11-dev libgtest-dev libpcre2-dev libicu-dev;
# libnlopt-dev (MOELORA_LORAHUB), libgloo-dev (Gloo.cmake)
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_path(SENTENCEPIECE_INCLUDE_DIR sentencepiece_processor.h REQUIRED)
find_library(SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
find_library(SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train REQUIRED)
# Linked in front of LibTorch wherever both are: each has a FLAGS_minloglevel, of 32 and of 4 bytes, and all libraries of a
# process use the one that comes first. The small one would have its neighbours overwritten as the program starts, among
# them the flag that turns LibTorch's errors into aborts.
add_library(moelora_sentencepiece INTERFACE IMPORTED GLOBAL)
target_link_libraries(moelora_sentencepiece INTERFACE ${SENTENCEPIECE_LIBRARY})
# Expressions and normal forms of tokenizers. The rooms from `model` on have them.
find_path(PCRE2_INCLUDE_DIR pcre2.h)
find_library(PCRE2_LIBRARY pcre2-8)
find_path(ICU_INCLUDE_DIR unicode/normalizer2.h)
find_library(ICU_LIBRARY icuuc)
if(NOT PCRE2_INCLUDE_DIR OR NOT PCRE2_LIBRARY OR NOT ICU_INCLUDE_DIR OR NOT ICU_LIBRARY)
  message(FATAL_ERROR "PCRE2 or ICU was not found: install libpcre2-dev and libicu-dev")
endif()
get_filename_component(MOELORA_ICU_FILE ${ICU_LIBRARY} REALPATH)  # with its version, which its symbols carry
get_filename_component(MOELORA_ICU_FILE ${MOELORA_ICU_FILE} NAME)
string(REGEX REPLACE "([.]so[.][0-9]+).*" "\\1" MOELORA_ICU_FILE ${MOELORA_ICU_FILE})
add_library(moelora_unicode INTERFACE IMPORTED GLOBAL)
target_include_directories(moelora_unicode INTERFACE ${PCRE2_INCLUDE_DIR} ${ICU_INCLUDE_DIR})
target_link_libraries(moelora_unicode INTERFACE ${PCRE2_LIBRARY} ${ICU_LIBRARY})
set(MOELORA_LIBRARIES_OF_model moelora_unicode)
# NLopt is LGPL in parts: linked as a shared library, never into ours. One file of the room `adapter` uses it.
set(MOELORA_LIBRARIES_OF_adapter "")
if(MOELORA_LORAHUB)
  find_path(NLOPT_INCLUDE_DIR nlopt.h)
  find_library(NLOPT_LIBRARY nlopt)
  if(NOT NLOPT_INCLUDE_DIR OR NOT NLOPT_LIBRARY)
    message(FATAL_ERROR "NLopt was not found: install libnlopt-dev, or configure with -DMOELORA_LORAHUB=OFF")
  endif()
  add_library(moelora_nlopt INTERFACE IMPORTED GLOBAL)
  target_include_directories(moelora_nlopt INTERFACE ${NLOPT_INCLUDE_DIR})
  target_link_libraries(moelora_nlopt INTERFACE ${NLOPT_LIBRARY})
  set(MOELORA_LIBRARIES_OF_adapter moelora_nlopt)
  set(MOELORA_LEFT_OUT "/lorahub_absent[.]cpp$")  # of the sources (Rooms.cmake)
else()
  set(NLOPT_LIBRARY "")
  set(MOELORA_LEFT_OUT "/lorahub_search[.]cpp$")  # of the sources (Rooms.cmake)
endif()

# Tables of the Python package jieba, for Rouge over words (cmake/setup.sh fetches them; the program works without them,
# and finds them when it runs: an installed one beside itself, others here).
set(MOELORA_JIEBA_DIR ${CMAKE_SOURCE_DIR}/build/jieba CACHE PATH "Folder of jieba's tables (may be absent)")
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/eval/segmenter.cpp PROPERTIES
  COMPILE_DEFINITIONS "MOELORA_BUILT_JIEBA_DIR=\"${MOELORA_JIEBA_DIR}\"")
