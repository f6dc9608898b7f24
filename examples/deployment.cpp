// Deployment: fold one task into the weights and generate at the base model's own cost; switch; restore.
//
//   build/bin/deployment MODEL ADAPTER TASK OTHER_TASK PROMPT
//   build/bin/deployment examples/tiny_base/model out/quickstart/run/adapter CHIP-CTC KUAKE-QIC
//       $'临床试验筛选标准归类：\n孕妇或哺乳期妇女。\n选项：疾病，怀孕相关，年龄，性别\n答：'
//
// prints
//   with the adapter: 怀孕相关
//   merged:           怀孕相关
//   largest rounding of a weight: 7.0e-08
//   KUAKE-QIC merged: 怀孕相关
//   restored: the base's bytes are back

#include <ATen/ATen.h>

#include <cstdio>
#include <exception>

#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/model/generation.h"
#include "moelora/model/registry.h"

namespace {

std::string answer(const moelora::model::LoadedModel& base, const std::string& prompt,
                   const moelora::nn::ContextMaker& context) {
  const moelora::model::Tokenizer& tokenizer = *base.tokenizer;
  moelora::model::GenerationOptions options;
  options.max_new_tokens = 64;
  options.end_ids = tokenizer.end_ids();
  const auto generated = moelora::model::generate(*base.model, {tokenizer.prompt_of(prompt)}, options, context);
  return tokenizer.clean_response(tokenizer.decode(generated.front().ids));
}

int run(char** argv) {
  const std::string folder = argv[1], task = argv[3], other = argv[4], prompt = argv[5];
  moelora::model::LoadOptions options;
  options.fingerprint = true;  // ties the adapter to its base
  const moelora::model::LoadedModel base = moelora::model::load(folder, options);
  moelora::Adapter adapter =
      moelora::load_adapter(*base.model, argv[2], base.base_fingerprint, base.tokenizer->fingerprint());

  // Unmerged: each sequence of a batch has its own task, given by the context.
  const std::string unmerged = answer(base, prompt, moelora::for_task(adapter, task));
  std::printf("with the adapter: %s\n", unmerged.c_str());

  // Merged: an ordinary model. Without a context maker, generation runs plain.
  const moelora::Certificate certificate = moelora::merge_for_task(adapter, task);
  const std::string merged = answer(base, prompt, {});
  std::printf("merged:           %s\n", merged.c_str());
  std::printf("largest rounding of a weight: %.1e\n", certificate.largest_rounding);

  // A switch starts from the base's bytes, not from the other task's.
  moelora::merge_for_task(adapter, other);
  std::printf("%s merged: %s\n", other.c_str(), answer(base, prompt, {}).c_str());

  moelora::unmerge(adapter);
  const bool restored = moelora::model::base_fingerprint(*base.model) == base.base_fingerprint;
  std::printf("restored: %s\n", restored ? "the base's bytes are back" : "NO");
  return restored && merged == unmerged ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: deployment MODEL ADAPTER TASK OTHER_TASK PROMPT\n");
    return 2;
  }
  try {
    return run(argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "deployment: error: %s\n", error.what());
    return 2;
  }
}
