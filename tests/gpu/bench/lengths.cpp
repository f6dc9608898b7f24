#include "gpu/bench/lengths.h"

#include <algorithm>

#include "benchmarks/model_s.h"

namespace moelora::bench {
namespace {

struct Length {
  std::int64_t tokens;
  std::int64_t label_begin;
};

// 64 records of PromptCBLUE's training part as a training run draws them (ChatGLM's tokenizer): 133 tokens on average,
// 27 of them labels; of 2000 records 162 and 31.
constexpr Length kLengths[] = {
    {82, 57},     {56, 52},   {67, 62},   {192, 119}, {108, 61},  {59, 54},   {251, 121}, {46, 42},
    {211, 171},   {103, 93},  {110, 61},  {158, 149}, {43, 39},   {57, 53},   {59, 55},   {33, 20},
    {1085, 1024}, {45, 41},   {136, 67},  {50, 46},   {61, 41},   {261, 131}, {50, 26},   {57, 53},
    {125, 60},    {81, 77},   {42, 38},   {59, 55},   {47, 43},   {55, 50},   {58, 47},   {209, 123},
    {66, 62},     {131, 61},  {119, 111}, {150, 89},  {518, 322}, {111, 102}, {98, 56},   {59, 54},
    {56, 52},     {139, 76},  {123, 119}, {54, 50},   {31, 18},   {65, 60},   {42, 38},   {128, 115},
    {74, 46},     {104, 100}, {115, 111}, {169, 158}, {416, 338}, {771, 697}, {78, 74},   {68, 64},
    {140, 136},   {71, 67},   {61, 57},   {169, 113}, {60, 54},   {104, 96},  {66, 62},   {107, 102}};

}  // namespace

std::vector<data::Example> samples_of_real_lengths(std::size_t count, std::int64_t most) {
  std::vector<data::Example> examples;
  for (std::size_t i = 0; i < count; ++i) {
    const Length& length = kLengths[i % std::size(kLengths)];
    const std::int64_t tokens = std::min(length.tokens, most);
    examples.push_back(
        random_example(tokens, std::min(length.label_begin, tokens - 1), static_cast<std::int64_t>(i % 8), i));
  }
  return examples;
}

}  // namespace moelora::bench
