// Goldens of a pretrained model that lies elsewhere (--base): golden.json with prompts (ids, greedy continuations,
// margins), texts (ids, losses of each token), cases of its tokenizer and its chat template; golden.safetensors with
// logits of the prompts' last rows:
//
//   logits.NAME [V], or logits_STEP.NAME [V / STEP], every STEP-th of them      loss.NAME [n - 1]
//
// The tolerance is ten times how far the recorded fp32 numbers are from fp64 ("fp32_vs_fp64…"), at most 1e-3.

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "golden.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"
#include "moelora/model/generation.h"
#include "moelora/model/registry.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr double kLargestTolerance = 1e-3;
constexpr double kRounded = 1e-5;  // margins and the like are written with five digits

double recorded_noise(const ordered_json& entries) {
  double noise = 0.0;
  for (const auto& entry : entries) {
    for (const auto& [key, value] : entry.items()) {
      if (key.starts_with("fp32_vs_fp64") && value.is_number()) {
        noise = std::max(noise, value.get<double>());
      }
    }
  }
  return noise;
}

class RecordedTexts {
 public:
  RecordedTexts(const fs::path& folder, const VerifyOptions& options, VerifyReport& report)
      : options_(options),
        report_(report),
        golden_(folder / "golden.safetensors", report),
        json_(io::read_json_file(folder / "golden.json")) {
    model::LoadOptions load;
    load.dtype = options.dtype;
    load.device = options.device;
    loaded_ = model::load(options.base, load);
    const double noise = std::max(recorded_noise(json_.at("prompts")), recorded_noise(json_.at("texts")));
    tolerance_ = std::min(noise > 0.0 ? 10.0 * noise : kLargestTolerance, kLargestTolerance) * options.tolerance_factor;
  }

  void verify() {
    verify_files();
    const at::NoGradGuard no_grad;
    for (const auto& prompt : json_.at("prompts")) {
      verify_prompt(prompt);
    }
    for (const auto& text : json_.at("texts")) {
      verify_text(text);
    }
    if (json_.contains("tokenizer")) {
      compare_texts("golden.json: tokenizer", *loaded_.tokenizer, json_["tokenizer"], report_);
    }
    if (json_.contains("chat_template")) {
      compare_chats("golden.json: chat_template", *loaded_.tokenizer, json_["chat_template"], report_);
    }
    golden_.finish();
  }

 private:
  static std::string label(const std::string& list, const ordered_json& entry, const std::string& what) {
    return "golden.json: " + list + ", " + entry.at("name").get<std::string>() + ", " + what;
  }

  /// Keys "FILE_sha256": what is compared must be the model that was recorded.
  void verify_files() {
    if (!json_.contains("model")) {
      return;
    }
    for (const auto& [key, value] : json_["model"].items()) {
      const auto file = text_between(key, "", "_sha256");
      if (file && fs::exists(options_.base / *file)) {
        compare_json(report_, "golden.json: " + key, value, io::sha256_of_file(options_.base / *file));
      }
    }
  }

  void compare_ids(const std::string& list, const ordered_json& entry) {
    if (entry.contains("text")) {
      compare_json(report_, label(list, entry, "ids"), entry.at("ids"),
                   loaded_.tokenizer->encode(entry.at("text").get<std::string>()));
    }
  }

  void verify_prompt(const ordered_json& prompt) {
    compare_ids("prompts", prompt);
    const auto name = prompt.at("name").get<std::string>();
    const ordered_json& expected = prompt.at("greedy_new_ids");
    model::GenerationOptions generation;
    generation.beyond_longest_sequence = true;
    generation.max_new_tokens = static_cast<std::int64_t>(expected.size());
    std::vector<at::Tensor> steps;
    const auto answers = model::generate(
        *loaded_.model, {{prompt.at("ids").get<model::TokenIds>(), 0}}, generation, {}, {},
        [&](const at::Tensor& logits, const auto&) { steps.push_back(logits.to(at::kFloat).cpu().clone()); });
    compare_json(report_, label("prompts", prompt, "greedy_new_ids"), expected, answers.front().ids);
    const at::Tensor logits = at::cat(steps);  // [new, V]
    compare_logits(name, logits[0]);
    if (prompt.contains("argmax")) {
      compare_json(report_, label("prompts", prompt, "argmax"), prompt["argmax"],
                   logits[0].argmax().item<std::int64_t>());
    }
    if (prompt.contains("top20_ids")) {
      const at::Tensor ids = at::tensor(prompt["top20_ids"].get<std::vector<std::int64_t>>(), at::kLong);
      compare_list(label("prompts", prompt, "top20_logits"), prompt.at("top20_logits"), logits[0].index_select(0, ids));
    }
    if (prompt.contains("logsumexp")) {
      compare_numbers(report_, label("prompts", prompt, "logsumexp"), prompt["logsumexp"].get<double>(),
                      logits[0].logsumexp(0).item<double>(), tolerance_ + kRounded);
    }
    const at::Tensor best = std::get<0>(logits.topk(2, 1));
    const at::Tensor margins = best.select(1, 0) - best.select(1, 1);
    if (prompt.contains("margins")) {
      compare_list(label("prompts", prompt, "margins"), prompt["margins"], margins, 2.0);
    }
    if (prompt.contains("smallest_top2_margin")) {
      compare_numbers(report_, label("prompts", prompt, "smallest_top2_margin"),
                      prompt["smallest_top2_margin"].get<double>(), margins.min().item<double>(),
                      2.0 * tolerance_ + kRounded);
    }
  }

  /// A list of rounded numbers; `logits` of them are in each.
  void compare_list(const std::string& name, const ordered_json& expected, const at::Tensor& found,
                    double logits = 1.0) {
    compare_tensors(report_, name, at::tensor(expected.get<std::vector<double>>(), at::kDouble), found.to(at::kDouble),
                    logits * tolerance_ + kRounded);
  }

  void compare_logits(const std::string& prompt, const at::Tensor& row) {
    for (const std::string& name : golden_.names()) {
      const auto step = number_between(name, "logits_", "." + prompt);
      if (name == "logits." + prompt) {
        golden_.compare(name, row, tolerance_);
      } else if (step && *step > 0) {
        golden_.compare(name, row.slice(0, 0, row.size(0), *step), tolerance_);
      }
    }
  }

  void verify_text(const ordered_json& text) {
    compare_ids("texts", text);
    const auto ids = text.at("ids").get<model::TokenIds>();
    const auto rows = static_cast<std::int64_t>(ids.size());
    MOELORA_CHECK(rows > 1, label("texts", text, "ids"), ": expected at least two ids");
    GoldenBatch batch;
    batch.ids = at::tensor(ids, at::kLong);
    batch.segments = loaded_.model->segments({rows}, {1});
    const at::Device device = options_.device;
    const nn::RowContext context = nn::RowContext::plain(batch.segments, device);
    const at::Tensor hidden =
        loaded_.model->hidden(batch.ids.to(device), loaded_.model->positions(batch.segments).to(device), context);
    const at::Tensor losses =
        model::token_losses(*loaded_.model, hidden.narrow(0, 0, rows - 1), batch.ids.narrow(0, 1, rows - 1).to(device))
            .to(at::kFloat)
            .cpu();
    const std::string name = "loss." + text.at("name").get<std::string>();
    if (golden_.contains(name)) {
      golden_.compare(name, losses, tolerance_);
    }
    if (text.contains("losses")) {
      compare_list(label("texts", text, "losses"), text["losses"], losses);
    }
    if (text.contains("mean_loss")) {
      compare_numbers(report_, label("texts", text, "mean_loss"), text["mean_loss"].get<double>(),
                      losses.mean().item<double>(), tolerance_);
    }
  }

  const VerifyOptions& options_;
  VerifyReport& report_;
  GoldenFile golden_;
  ordered_json json_;
  model::LoadedModel loaded_;
  double tolerance_ = 0.0;
};

}  // namespace

bool holds_recorded_texts(const fs::path& folder) {
  if (fs::exists(folder / "config.json") || !fs::exists(folder / "golden.json") ||
      !fs::exists(folder / "golden.safetensors")) {
    return false;
  }
  const ordered_json json = io::read_json_file(folder / "golden.json");
  return json.is_object() && json.contains("prompts") && json.contains("texts");
}

void verify_recorded_texts(const fs::path& folder, const VerifyOptions& options, VerifyReport& report) {
  MOELORA_CHECK(!options.base.empty(), folder.string(),
                " holds texts and prompts of a model that lies elsewhere; name its folder with --base");
  RecordedTexts(folder, options, report).verify();
}

}  // namespace moelora::verify
