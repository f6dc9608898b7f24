#include "cli/export_probe.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/probe.h"
#include "moelora/io/dtype.h"
#include "moelora/io/json_file.h"

namespace moelora::cli {
namespace {

// One prompt's part of a probe: how far logits move, and what a server shows of it, the next token's.
nlohmann::ordered_json probe_of_prompt(const Probe& probe, std::size_t prompt, const at::Tensor& without,
                                       const at::Tensor& with) {
  const std::int64_t first = probe.segments.offsets[prompt];
  const std::int64_t count = probe.segments.offsets[prompt + 1] - first;
  const at::Tensor change = (with - without).narrow(0, first, count).abs();
  const std::int64_t last = first + count - 1;
  const auto token = change[count - 1].argmax().item<std::int64_t>();
  return {{"text", probe.texts[prompt]},
          {"ids", probe.prompts[prompt].ids},
          {"largest_change", change.max().item<double>()},
          {"next_token",
           {{"most_changed_id", token},
            {"logit_without", without[last][token].item<double>()},
            {"logit_with", with[last][token].item<double>()},
            {"best_id_without", without[last].argmax().item<std::int64_t>()},
            {"best_id_with", with[last].argmax().item<std::int64_t>()}}}};
}

nlohmann::ordered_json probe_of_task(const Probe& probe, const std::string& task, const at::Tensor& without,
                                     const at::Tensor& with) {
  const double largest = (with - without).abs().max().item<double>();
  nlohmann::ordered_json entry{{"task", task}, {"largest_change", largest}};
  for (std::size_t prompt = 0; prompt < probe.texts.size(); ++prompt) {
    entry["prompts"].push_back(probe_of_prompt(probe, prompt, without, with));
  }
  std::cout << "  " << task << ": loading the file changes logits by up to " << largest << " on " << probe.texts.size()
            << " prompts" << (largest == 0.0 ? ": NOTHING changes" : "") << std::endl;
  return entry;
}

}  // namespace

void write_probes(Session& session, const std::filesystem::path& model, const std::vector<ExportedFile>& files,
                  const LoadExported& load) {
  at::NoGradGuard no_grad;
  eject(session.adapter);
  const Probe probe(*session.tokenizer);
  const at::Device device = session.model->device();
  const at::Tensor without = probe_logits(
      *session.model, probe, [&](const nn::Segments& segments) { return nn::RowContext::plain(segments, device); });
  for (const ExportedFile& file : files) {
    Adapter loaded = load(*session.model, file);
    loaded->eval();
    nlohmann::ordered_json json{{"base", std::filesystem::absolute(model).lexically_normal().string()},
                                {"base_fingerprint", session.base_fingerprint},
                                {"dtype", io::dtype_name(session.model->dtype())},
                                {"tasks", nlohmann::ordered_json::array()}};
    for (std::size_t task = 0; task < file.tasks.size(); ++task) {
      const std::vector<std::int64_t> tasks(probe.prompts.size(), static_cast<std::int64_t>(task));
      const at::Tensor with = probe_logits(*session.model, probe, for_tasks(loaded, single_tasks(tasks)));
      json["tasks"].push_back(probe_of_task(probe, file.tasks[task], without, with));
    }
    eject(loaded);
    io::write_json_file(file.probe, json);
    std::cout << "  wrote " << file.probe.string()
              << ": a server whose logits do not change so has not loaded the adapter" << std::endl;
  }
}

}  // namespace moelora::cli
