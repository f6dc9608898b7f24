// Readers of configurations, records and text, compiled once more with coverage and sanitizers.
#include "data/record.cpp"
#include "model/chatglm/config.cpp"
#include "model/chatglm/text_clean.cpp"
#include "model/chatglm/tokenizer.cpp"
#include "train/config.cpp"
