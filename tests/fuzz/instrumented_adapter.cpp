// What reads configurations of adapters, compiled once more with coverage and sanitizers.
#include "adapter/adapter_file.cpp"
#include "adapter/config.cpp"
#include "adapter/foreign_config.cpp"
#include "adapter/foreign_read.cpp"
#include "adapter/inject.cpp"
#include "adapter/task_names.cpp"
