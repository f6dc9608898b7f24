// dump_logits MODEL ADAPTER TASK OUTPUT
//
// Exports one task of a MOELoRA adapter to PEFT (OUTPUT/peft) and writes the logits that the model computes with that
// task merged (OUTPUT/logits.safetensors), for peft_check.py to compare with Python's PEFT.

#include <ATen/ATen.h>

#include <filesystem>
#include <iostream>

#include "moelora/adapter/foreign.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"
#include "moelora/io/safetensors.h"
#include "moelora/model/chatglm/load.h"

namespace {

/// Three packed sequences: context tokens, gMASK, sop, target tokens.
struct Sequences {
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> lengths;
  std::vector<std::int64_t> context;
};

Sequences make_sequences(const moelora::model::ChatGlmConfig& config) {
  Sequences sequences;
  const std::vector<std::pair<std::int64_t, std::int64_t>> sizes{{14, 9}, {23, 12}, {1, 0}};
  std::int64_t next = 17;
  const auto token = [&] { return 5 + (next = (next * 75 + 74) % 65537) % (config.mask_token_id - 5); };
  for (const auto& [source, target] : sizes) {
    for (std::int64_t i = 0; i < source; ++i) {
      sequences.ids.push_back(token());
    }
    sequences.ids.push_back(config.gmask_token_id);
    sequences.ids.push_back(config.bos_token_id);
    for (std::int64_t i = 0; i < target; ++i) {
      sequences.ids.push_back(token());
    }
    sequences.lengths.push_back(source + 2 + target);
    sequences.context.push_back(source + 1);
  }
  return sequences;
}

void dump(const std::filesystem::path& model_folder, const std::filesystem::path& adapter_folder,
          const std::string& task, const std::filesystem::path& output) {
  at::NoGradGuard no_grad;
  auto model = moelora::model::load_chatglm(model_folder);
  model->eval();
  auto adapter = moelora::load_foreign_adapter(*model, adapter_folder);
  moelora::export_peft(*adapter, task, output / "peft");
  moelora::merge_for_task(adapter, task);

  const Sequences sequences = make_sequences(model->config());
  const auto segments = moelora::nn::Segments::from_lengths(sequences.lengths, sequences.context);
  const at::Tensor ids = at::tensor(sequences.ids, at::kLong);
  const at::Tensor hidden = model->hidden(ids, model->positions(segments), moelora::nn::RowContext::plain(segments));
  moelora::io::save_safetensors(output / "logits.safetensors", {{"ids", ids},
                                                                {"lengths", at::tensor(sequences.lengths, at::kLong)},
                                                                {"context", at::tensor(sequences.context, at::kLong)},
                                                                {"logits", model->logits(hidden)}});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: dump_logits MODEL ADAPTER TASK OUTPUT\n";
    return 2;
  }
  try {
    dump(argv[1], argv[2], argv[3], argv[4]);
  } catch (const moelora::Error& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
  return 0;
}
