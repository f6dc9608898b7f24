#include "cli/kept_answers.h"

#include <algorithm>

#include "cli/ranks.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/sha256.h"
#include "moelora/log/log.h"

namespace moelora::cli {
namespace {

using nlohmann::ordered_json;

constexpr const char* kRankMark = ".rank-";

}  // namespace

KeptAnswers::KeptAnswers(std::filesystem::path file, bool resume, train::ProcessGroup* ranks)
    : file_(std::move(file)), ranks_(ranks) {
  if (writes(ranks_)) {
    own_ = std::make_unique<data::AnswerFile>(file_, resume);
  }
}

void KeptAnswers::begin(const ordered_json& identity, eval::EvaluateOptions& options) {
  if (own_) {
    options.known = own_->begin(identity);
    for (const std::filesystem::path& file : files_of_others()) {
      const std::vector<data::Answer> more = data::AnswerFile::read(file, identity);
      options.known.insert(options.known.end(), more.begin(), more.end());
    }
  }
  if (ranks_ != nullptr) {
    auto known = ordered_json::array();
    for (const data::Answer& answer : options.known) {
      known.push_back(data::to_json(answer));
    }
    const std::string first = ranks_->gather(own_ ? known.dump() : std::string()).front();
    if (!own_) {
      for (const auto& answer : ordered_json::parse(first)) {
        options.known.push_back(data::answer_from_json(answer));
      }
      try {
        if (std::filesystem::is_directory(file_.parent_path())) {
          own_ = std::make_unique<data::AnswerFile>(file_of(ranks_->rank()), /*resume=*/true);
          own_->begin(identity);
        }
      } catch (const Error& error) {  // the run itself does not need it
        own_.reset();
        log::warning(detail::concat("the answers of rank ", ranks_->rank(), " are not kept: ", error.what()));
      }
    }
  }
  if (writes(ranks_) && !options.known.empty()) {
    log::info(detail::concat("going on after ", options.known.size(), " answers in ", file_.string()));
  }
  if (own_) {
    options.on_answers = [this](const std::vector<data::Answer>& answers) { own_->add(answers); };
  }
}

void KeptAnswers::remove() {
  own_->remove();
  for (const std::filesystem::path& file : files_of_others()) {
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
  }
}

std::filesystem::path KeptAnswers::file_of(int rank) const { return file_.string() + kRankMark + std::to_string(rank); }

std::vector<std::filesystem::path> KeptAnswers::files_of_others() const {
  std::vector<std::filesystem::path> files;
  const std::string prefix = file_.filename().string() + kRankMark;
  const auto folder = file_.parent_path().empty() ? std::filesystem::path(".") : file_.parent_path();
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with(prefix)) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

ordered_json identity_of_answers(const Session& session, const std::vector<data::Record>& records,
                                 const eval::EvaluateOptions& options, const PromptOptions& prompt) {
  const data::EncodeOptions encode = eval::prompt_encoding(options, *session.model);
  const model::GenerationOptions& generation = options.generation;
  ordered_json identity{{"records", records.size()},
                        {"records_sha256", io::sha256_of(data::json_lines(records))},
                        {"model", session.base_fingerprint},
                        {"tokenizer", session.tokenizer->fingerprint()},
                        {"adapter", nullptr},
                        {"dtype", io::dtype_name(session.model->dtype())},
                        {"device", session.model->device().is_cpu() ? "cpu" : "cuda"},
                        {"max_source_length", encode.max_source_length},
                        {"cut", data::cut_name(encode.cut)},
                        {"max_new_tokens", options.max_target_length},
                        {"sample", generation.sample}};
  if (const std::string form = session.tokenizer->prompt_form(); !form.empty()) {
    identity["template"] = form;
  }
  if (!options.encode.source_prefix.empty()) {
    identity["source_prefix"] = options.encode.source_prefix;
  }
  if (session.adapter) {
    identity["adapter"] = io::fingerprint(adapter_tensors(*session.adapter));
    identity["adapter_config"] = session.adapter->config().to_json();
    identity["tasks"] = session.adapter->tasks().names();
  }
  if (generation.sample) {
    identity["temperature"] = generation.temperature;
    identity["top_k"] = generation.top_k;
    identity["top_p"] = generation.top_p;
    identity["seed"] = generation.seed;
  }
  if (!prompt.task_prompts.empty()) {
    identity["task_prompts"] = io::sha256_of_file(prompt.task_prompts);
  }
  if (!prompt.demonstrations_from.empty()) {
    identity["demonstrations"] = {
        {"count", prompt.demonstrations.count},
        {"similar", prompt.demonstrations.choice == data::DemonstrationOptions::Choice::similar},
        {"seed", generation.seed},
        {"from", io::sha256_of_file(prompt.demonstrations_from)}};
    if (!prompt.fields.is_default()) {
      identity["demonstrations"]["fields"] = prompt.fields.to_json();
    }
  }
  return identity;
}

}  // namespace moelora::cli
