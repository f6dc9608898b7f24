// moelora merge: tasks folded into the weights, as model folders that any engine can serve.

#include "moelora/adapter/merge.h"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/predict.h"
#include "cli/probe.h"
#include "cli/verbs.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/file_name.h"
#include "moelora/io/finite.h"
#include "moelora/io/folder_lock.h"
#include "moelora/io/json_file.h"
#include "moelora/io/provenance.h"
#include "moelora/io/tensor_folder.h"
#include "moelora/log/log.h"
#include "moelora/model/folder_files.h"
#include "moelora/train/prompt_form.h"
#include "moelora/verify/merge_check.h"

namespace moelora::cli {
namespace {

using Mixture = std::vector<std::pair<std::string, double>>;

struct MergeVerbOptions {
  SessionOptions session;
  std::string task;
  std::string mix;
  bool all_tasks = false;
  std::filesystem::path output;
  std::filesystem::path check;
  data::FieldMap fields;  // of `check`
  eval::EvaluateOptions evaluate;
};

// One folder to write: a mixture of tasks (a single task: weight 1).
struct Merge {
  std::vector<std::pair<std::string, double>> mixture;
  std::filesystem::path folder;
  bool single() const { return mixture.size() == 1 && mixture.front().second == 1.0; }
  const std::string& task() const { return mixture.front().first; }  // of a single one
};

std::vector<Merge> planned_merges(const MergeVerbOptions& options, const TaskNames& tasks) {
  std::vector<Merge> merges;
  if (options.all_tasks) {
    for (const std::string& name : tasks.names()) {
      merges.push_back({{{name, 1.0}}, options.output.empty() ? "" : options.output / io::file_name_for(name)});
    }
    return merges;
  }
  merges.push_back({options.mix.empty() ? Mixture{{options.task, 1.0}} : parse_mixture(options.mix), options.output});
  for (const auto& [task, weight] : merges.front().mixture) {
    tasks.index(task);
  }
  return merges;
}

// What a check compares must be there before anything is merged: a comparison of nothing would pass.
void require_records(const MergeVerbOptions& options, const std::vector<Merge>& merges,
                     const std::vector<data::Record>& records) {
  std::map<std::string, std::int64_t> counts;
  for (const data::Record& record : records) {
    ++counts[record.task];
  }
  std::string without;
  for (const Merge& merge : merges) {
    if (!counts.contains(merge.task())) {
      without += (without.empty() ? "" : ", ") + merge.task();
    }
  }
  std::string with;
  for (const auto& [task, count] : counts) {
    with += detail::concat(with.empty() ? "" : ", ", task, " (", count, ")");
  }
  MOELORA_CHECK(without.empty(), "--check ", options.check.string(), " has no record of ", without,
                ", so there is nothing to compare; expected records of every merged task, found ",
                with.empty() ? "none" : with);
}

// The adapter's weighting of `merge` while it is unmerged, plain while it is merged.
nn::RowContext context_of(const Session& session, const Merge& merge, const nn::Segments& segments) {
  if (is_merged(session.adapter)) {
    return nn::RowContext::plain(segments, session.model->device());
  }
  const auto tasks_of = [&](std::size_t part) {
    const std::int64_t task = session.adapter->tasks().index(merge.mixture[part].first);
    return single_tasks(std::vector<std::int64_t>(static_cast<std::size_t>(segments.count()), task));
  };
  nn::RowContext context = session.adapter->context(segments, tasks_of(0));
  if (context.expert_weights.defined()) {
    context.expert_weights = context.expert_weights * merge.mixture[0].second;
    for (std::size_t part = 1; part < merge.mixture.size(); ++part) {
      context.expert_weights =
          context.expert_weights + session.adapter->expert_weights(tasks_of(part)) * merge.mixture[part].second;
    }
  }
  return context;
}

verify::MergeCheck check_task(Session& session, const Merge& merge, const std::vector<data::Record>& records,
                              const MergeVerbOptions& options, const MergeOptions& merge_options,
                              Certificate& certificate) {
  std::vector<model::Prompt> prompts;
  const data::EncodeOptions encode = eval::prompt_encoding(options.evaluate, *session.model);
  data::CountedRecords cut;
  for (const data::Record& record : records) {
    if (record.task != merge.task()) {
      continue;
    }
    std::int64_t removed = 0;
    prompts.push_back(data::encode_prompt(record, *session.tokenizer, encode, &removed));
    if (removed > 0) {
      cut.add(data::record_name(record));
    }
  }
  eval::warn_of_cut_prompts(cut, prompts.size(), encode);
  verify::MergeCheckOptions check;
  check.generation = options.evaluate.generation;
  check.generation.max_new_tokens = options.evaluate.max_target_length;
  check.generation.end_ids = session.tokenizer->end_ids();
  check.batch_size = options.evaluate.batch_size;
  return verify::check_merge(*session.model, session.adapter, merge.task(), prompts, check, merge_options, certificate);
}

void print_certificate(const Certificate& certificate) {
  std::printf("%s: %lld linears in %s, largest update %.3g, largest rounding %.3g", certificate.what.c_str(),
              static_cast<long long>(certificate.linears), certificate.dtype.c_str(), certificate.largest_update,
              certificate.largest_rounding);
  if (!certificate.largest_rounding_at.empty()) {
    std::printf(" (%s)", certificate.largest_rounding_at.c_str());
  }
  std::printf(", largest logit difference %.3g\n", certificate.largest_logit_difference);
  std::fflush(stdout);
}

void print_check(const verify::MergeCheck& check) {
  std::printf("  %lld of %lld answers equal the adapter's token by token", static_cast<long long>(check.equal),
              static_cast<long long>(check.prompts));
  if (check.equal < check.prompts) {
    std::printf(", %lld part where the model was undecided, %lld differ; largest margin at a first difference %.3g",
                static_cast<long long>(check.undecided), static_cast<long long>(check.different), check.largest_margin);
  }
  std::printf("\n");
  std::fflush(stdout);
}

void write_merged(const Session& session, const Merge& merge, const MergeVerbOptions& options,
                  nlohmann::ordered_json certificate) {
  certificate["adapter"] = std::filesystem::absolute(options.session.adapter).lexically_normal().string();
  certificate["base_fingerprint"] = session.base_fingerprint;
  certificate["provenance"] = io::provenance();
  io::AtomicFolder folder(merge.folder);
  model::SaveOptions save;
  save.files_from = options.session.model;
  model::save_model(*session.model, *session.config, folder.path(), save);
  if (const std::string& chosen = options.session.chat_template;
      chosen != model::kOwnTemplate && chosen != model::kNoTemplate) {
    // Whoever serves the folder asks with this file, whatever tokenizer_config.json says.
    std::filesystem::copy_file(chosen, folder.path() / "chat_template.jinja",
                               std::filesystem::copy_options::overwrite_existing);
  }
  io::write_json_file(folder.path() / "merge_certificate.json", certificate);
  folder.commit();
  std::cout << "  wrote " << merge.folder.string() << std::endl;
}

bool run_merge(MergeVerbOptions options) {
  MOELORA_CHECK(!options.task.empty() + !options.mix.empty() + options.all_tasks == 1,
                "give one of --task TASK, --mix TASK=WEIGHT,… and --all-tasks");
  MOELORA_CHECK(!options.output.empty() || !options.check.empty(), "give --output FOLDER, or only --check DATA");
  if (!options.mix.empty()) {
    parse_mixture(options.mix);  // a bad one shows before the long part
  }
  std::optional<io::FolderLock> lock;
  if (!options.output.empty()) {
    require_empty(options.output);
    lock.emplace(options.output, "moelora merge");
    require_empty(options.output);  // another process may have filled it in between
  }
  const std::vector<data::Record> records =
      options.check.empty() ? std::vector<data::Record>() : read_and_report(options.check, {.fields = options.fields});
  Session session = open_session(options.session);
  session.tasks_of(records);  // an unknown task shows before the work begins
  options.evaluate.encode.source_prefix = session.source_prefix;
  if (auto form = train::PromptForm::of_adapter(options.session.adapter)) {
    form->chat_template = session.tokenizer->prompt_form();
    train::warn_of_other_prompts(options.session.adapter, *form);
  }
  const auto merges = planned_merges(options, session.adapter->tasks());
  MOELORA_CHECK(options.check.empty() || merges.front().single(), "--check compares tasks; a mixture is no task");
  if (!options.check.empty()) {
    require_records(options, merges, records);
  }
  require_finite_weights(*session.model, options.session.model);
  if (!options.output.empty()) {
    model::warn_of_missing_files(options.session.model);
  }
  if (!options.output.empty() && options.session.chat_template == model::kNoTemplate) {
    log::warning(
        "the merged folder keeps the base's chat template, if it has one: ask the model without it "
        "(--template none)");
  }
  bool passed = true;
  const io::TensorFolder stored(options.session.model);
  const Probe probe(*session.tokenizer);
  for (const Merge& merge : merges) {
    if (is_merged(session.adapter)) {
      unmerge(session.adapter);
    }
    MergeOptions merge_options;
    merge_options.probe = [&] {
      return probe_logits(*session.model, probe,
                          [&](const nn::Segments& segments) { return context_of(session, merge, segments); });
    };
    // No second copy of the weights in memory: the folder has them, and after a single merge nobody asks for them.
    merge_options.keep_base = merges.size() == 1 ? MergeOptions::KeepBase::none : MergeOptions::KeepBase::reread;
    merge_options.reread = [&stored](const std::string& name) { return stored.tensor(name); };
    Certificate certificate;
    nlohmann::ordered_json json;
    if (options.check.empty()) {
      certificate = options.mix.empty() ? merge_for_task(session.adapter, merge.task(), merge_options)
                                        : merge_mixture(session.adapter, merge.mixture, merge_options);
      print_certificate(certificate);
      json = certificate.to_json();
    } else {
      const auto check = check_task(session, merge, records, options, merge_options, certificate);
      print_certificate(certificate);
      print_check(check);
      json = certificate.to_json();
      json["greedy_check"] = check.to_json();
      passed = passed && check.passed();
    }
    if (certificate.largest_update == 0.0) {
      log::warning(certificate.what + ": the update is zero; the merged weights are the base's");
    }
    if (!merge.folder.empty()) {
      write_merged(session, merge, options, json);
    }
  }
  return passed;
}

// They serve --check alone, which compares greedy answers.
void add_check_options(CLI::App& verb, eval::EvaluateOptions& options, CLI::Option* check) {
  const std::vector<CLI::Option*> before = verb.get_options();
  add_answer_options(verb, options);
  for (CLI::Option* option : verb.get_options()) {
    if (std::find(before.begin(), before.end(), option) == before.end()) {
      option->needs(check);
    }
  }
}

}  // namespace

void add_merge(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("merge", "fold tasks into the weights: models without added latency");
  auto options = std::make_shared<MergeVerbOptions>();
  options->session.dtype = kStoredDtype;
  add_session_options(*verb, options->session, true);
  verb->get_option("--dtype")->description("type of the merged weights: stored (as in the model folder), float32, …");
  verb->add_option("--task", options->task, "task to fold");
  verb->add_option("--mix", options->mix, "mixture of tasks, e.g. CMeIE=0.5,MedDG=0.5");
  verb->add_flag("--all-tasks", options->all_tasks, "every task, each into OUTPUT/TASK");
  verb->add_option("--output", options->output, "new model folder, with merge_certificate.json");
  auto* check = verb->add_option(
      "--check", options->check,
      "records of every merged task: the merged model's greedy answers must equal the adapter's (exit code 1 if not)");
  add_check_options(*verb, options->evaluate, check);
  add_fields_option(*verb, options->fields);
  verb->get_option("--fields")->needs(check);
  verb->footer(
      "Weights or logits that are NaN or infinite end it with exit code 1 and no folder.\n"
      "Examples:\n"
      "  moelora merge --model examples/tiny_base/model --adapter out/run/adapter --task CMeIE --output out/cmeie\n"
      "  moelora merge --model MODEL --adapter ADAPTER --mix CMeIE=0.5,MedDG=0.5 --output out/mixed\n"
      "  moelora merge --model MODEL --adapter ADAPTER --all-tasks --check dev.json --output out/merged");
  verb->callback([options, &status] {
    try {
      status = run_merge(*options) ? 0 : 1;
    } catch (const io::NotFinite& failure) {  // the input could be read; what it gives is no model
      std::cout << std::flush;
      std::cerr << "moelora merge: FAILED: " << failure.what() << std::endl;
      status = 1;
    }
  });
}

}  // namespace moelora::cli
