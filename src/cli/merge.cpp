// moelora merge: tasks folded into the weights, as model folders that any engine can serve.

#include "moelora/adapter/merge.h"

#include <ATen/ATen.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/predict.h"
#include "cli/verbs.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/file_name.h"
#include "moelora/io/json_file.h"
#include "moelora/io/provenance.h"
#include "moelora/io/tensor_folder.h"
#include "moelora/verify/merge_check.h"

namespace moelora::cli {
namespace {

// The probe batch of every certificate: two sequences of different length.
constexpr const char* kProbeTexts[] = {"患者三天前受凉后出现咳嗽、发热，体温最高39℃。", "诊断：上呼吸道感染"};

struct MergeVerbOptions {
  SessionOptions session;
  std::string task;
  std::string mix;
  bool all_tasks = false;
  std::filesystem::path output;
  std::filesystem::path check;
  eval::EvaluateOptions evaluate;
};

// One folder to write: a mixture of tasks (a single task: weight 1).
struct Merge {
  std::string what;
  std::vector<std::pair<std::string, double>> mixture;
  std::filesystem::path folder;
  bool single() const { return mixture.size() == 1 && mixture.front().second == 1.0; }
};

std::vector<Merge> planned_merges(const MergeVerbOptions& options, const TaskNames& tasks) {
  std::vector<Merge> merges;
  if (options.all_tasks) {
    for (const std::string& name : tasks.names()) {
      merges.push_back({name, {{name, 1.0}}, options.output.empty() ? "" : options.output / io::file_name_for(name)});
    }
  } else if (!options.task.empty()) {
    tasks.index(options.task);
    merges.push_back({options.task, {{options.task, 1.0}}, options.output});
  } else {
    merges.push_back({options.mix, parse_mixture(options.mix), options.output});
  }
  return merges;
}

// Logits of the probe batch: with the adapter's weighting of `merge` while it is unmerged, plain while it is merged.
std::function<at::Tensor()> probe_of(const Session& session, const Merge& merge) {
  std::vector<std::int64_t> tasks;
  for (const auto& [name, weight] : merge.mixture) {
    tasks.push_back(session.adapter->tasks().index(name));
  }
  return [&session, merge, tasks] {
    at::NoGradGuard no_grad;
    std::vector<std::int64_t> ids, lengths, contexts;
    for (const char* text : kProbeTexts) {
      const model::TokenIds source = session.tokenizer->encode(text);
      const model::TokenIds prompt = session.tokenizer->build_prompt(source);
      ids.insert(ids.end(), prompt.begin(), prompt.end());
      lengths.push_back(static_cast<std::int64_t>(prompt.size()));
      contexts.push_back(session.tokenizer->context_length(static_cast<std::int64_t>(source.size())));
    }
    const auto segments = nn::Segments::from_lengths(lengths, contexts);
    const at::Device device = session.model->device();
    nn::RowContext context = nn::RowContext::plain(segments, device);
    if (!is_merged(session.adapter)) {
      context = session.adapter->context(segments, single_tasks(std::vector<std::int64_t>(lengths.size(), tasks[0])));
      if (context.expert_weights.defined()) {
        context.expert_weights = context.expert_weights * merge.mixture[0].second;
        for (std::size_t t = 1; t < tasks.size(); ++t) {
          const auto more = single_tasks(std::vector<std::int64_t>(lengths.size(), tasks[t]));
          context.expert_weights =
              context.expert_weights + session.adapter->expert_weights(more) * merge.mixture[t].second;
        }
      }
    }
    model::ChatGlm model = session.model;
    const at::Tensor rows = at::tensor(ids, at::kLong).to(device);
    return model->logits(model->hidden(rows, model->positions(segments).to(device), context)).to(at::kFloat);
  };
}

verify::MergeCheck check_task(Session& session, const Merge& merge, const std::vector<data::Record>& records,
                              const MergeVerbOptions& options, const MergeOptions& merge_options,
                              Certificate& certificate) {
  std::vector<model::TokenIds> prompts;
  std::vector<std::int64_t> contexts;
  const data::EncodeOptions encode = eval::prompt_encoding(options.evaluate, *session.model);
  data::CountedRecords cut;
  for (const data::Record& record : records) {
    if (record.task != merge.what) {
      continue;
    }
    std::int64_t removed = 0;
    prompts.push_back(data::encode_prompt(record, *session.tokenizer, encode, &removed));
    if (removed > 0) {
      cut.add(data::record_name(record));
    }
    contexts.push_back(session.tokenizer->context_length(static_cast<std::int64_t>(prompts.back().size()) -
                                                         session.tokenizer->prompt_overhead()));
  }
  eval::warn_of_cut_prompts(cut, prompts.size(), encode);
  verify::MergeCheckOptions check;
  check.generation = options.evaluate.generation;
  check.generation.max_new_tokens = options.evaluate.max_target_length;
  check.generation.eos_id = session.tokenizer->eos_id();
  check.batch_size = options.evaluate.batch_size;
  return verify::check_merge(*session.model, session.adapter, merge.what, prompts, contexts, check, merge_options,
                             certificate);
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
  model::save_chatglm(*session.model, folder.path(), options.session.model);
  io::write_json_file(folder.path() / "merge_certificate.json", certificate);
  folder.commit();
  std::cout << "  wrote " << merge.folder.string() << std::endl;
}

bool run_merge(const MergeVerbOptions& options) {
  MOELORA_CHECK(!options.task.empty() + !options.mix.empty() + options.all_tasks == 1,
                "give one of --task TASK, --mix TASK=WEIGHT,… and --all-tasks");
  MOELORA_CHECK(!options.output.empty() || !options.check.empty(), "give --output FOLDER, or only --check DATA");
  MOELORA_CHECK(options.mix.empty() || options.check.empty(), "--check compares tasks; a mixture is no task");
  if (!options.output.empty()) {
    require_empty(options.output);
  }
  const std::vector<data::Record> records =
      options.check.empty() ? std::vector<data::Record>() : read_and_report(options.check);
  Session session = open_session(options.session);
  session.tasks_of(records);  // an unknown task shows before the work begins
  bool passed = true;
  const auto merges = planned_merges(options, session.adapter->tasks());
  const io::TensorFolder stored(options.session.model);
  for (const Merge& merge : merges) {
    if (is_merged(session.adapter)) {
      unmerge(session.adapter);
    }
    MergeOptions merge_options;
    merge_options.probe = probe_of(session, merge);
    // No second copy of the weights in memory: the folder has them, and after a single merge nobody asks for them.
    merge_options.keep_base = merges.size() == 1 ? MergeOptions::KeepBase::none : MergeOptions::KeepBase::reread;
    merge_options.reread = [&stored](const std::string& name) { return stored.tensor(name); };
    Certificate certificate;
    nlohmann::ordered_json json;
    if (options.check.empty()) {
      certificate = merge.single() ? merge_for_task(session.adapter, merge.what, merge_options)
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
    if (!merge.folder.empty()) {
      write_merged(session, merge, options, json);
    }
  }
  return passed;
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
  verb->add_option("--check", options->check,
                   "records: answers of the merged model must equal the adapter's (exit code 1 if not)");
  add_predict_options(*verb, options->evaluate);
  verb->footer(
      "Examples:\n"
      "  moelora merge --model examples/tiny_base/model --adapter out/run/adapter --task CMeIE --output out/cmeie\n"
      "  moelora merge --model MODEL --adapter ADAPTER --mix CMeIE=0.5,MedDG=0.5 --output out/mixed\n"
      "  moelora merge --model MODEL --adapter ADAPTER --all-tasks --check dev.json --output out/merged");
  verb->callback([options, &status] { status = run_merge(*options) ? 0 : 1; });
}

}  // namespace moelora::cli
