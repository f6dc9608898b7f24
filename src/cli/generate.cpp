// moelora generate: answers to one prompt or to a file of records.

#include <algorithm>
#include <iostream>

#include "cli/kept_answers.h"
#include "cli/predict.h"
#include "cli/verbs.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/log/log.h"

namespace moelora::cli {
namespace {

struct GenerateOptions {
  SessionOptions session;
  eval::EvaluateOptions evaluate;
  PromptOptions prompt_options;
  std::string task;
  std::string prompt;
  std::filesystem::path input;
  std::filesystem::path output;
  data::FieldMap fields;
  bool stream = false;
  bool resume = false;
};

void answer_prompt(const Session& session, const GenerateOptions& options) {
  data::Record record;
  record.input = options.prompt;
  record.task = options.task;
  record.sample_id = "the prompt";
  if (!options.stream) {
    std::cout << predict(session, {record}, options.evaluate).predictions.front().target << std::endl;
    return;
  }
  const data::EncodeOptions encode = eval::prompt_encoding(options.evaluate, *session.model);
  std::int64_t removed = 0;
  const model::Prompt prompt = data::encode_prompt(options.evaluate.ask(record), *session.tokenizer, encode, &removed);
  data::CountedRecords cut;
  if (removed > 0) {
    cut.add(record.sample_id);
  }
  eval::warn_of_cut_prompts(cut, 1, encode);
  model::GenerationOptions generation = options.evaluate.generation;
  generation.max_new_tokens = options.evaluate.max_target_length;
  generation.end_ids = session.tokenizer->end_ids();
  generation.streams = eval::random_streams({record});
  model::TokenIds so_far;
  std::string shown;
  const auto stream = [&](std::int64_t, std::int64_t token) {
    so_far.push_back(token);
    const std::string text = session.tokenizer->decode(so_far);
    // A character whose bytes are not all there yet decodes to a replacement mark: it waits for the next token.
    if (text.starts_with(shown) && !text.ends_with("\xEF\xBF\xBD")) {
      std::cout << text.substr(shown.size()) << std::flush;
      shown = text;
    }
    MOELORA_CHECK(std::cout.good(), "nobody reads the answer any more");
  };
  model::generate(*session.model, {prompt}, generation, session.context_maker(session.tasks_of({record})), stream);
  std::cout << std::endl;
}

// The task of records that name none: --task, the only one of the adapter, or what --fields says of such records if the
// adapter has that task. Error if one is needed and not known.
std::string task_for_all(const GenerateOptions& options, const std::vector<data::Record>& records) {
  if (!options.task.empty() || (options.session.adapter.empty() && options.prompt_options.task_prompts.empty())) {
    return options.task;
  }
  const auto nameless =
      std::find_if(records.begin(), records.end(), [](const data::Record& record) { return record.task.empty(); });
  if (nameless == records.end()) {
    return "";
  }
  // A folder that is no adapter is named as such when the session is opened.
  if (is_adapter_folder(options.session.adapter)) {
    const TaskNames tasks = read_adapter_info(options.session.adapter).tasks;
    if (tasks.size() == 1) {
      return tasks.name(0);
    }
    if (const std::string task = options.fields.fallback_task(options.input); tasks.contains(task)) {
      return task;
    }
  }
  throw Error(options.input.string() + ": record " + data::record_name(*nameless) +
              " names no task (--fields says which field does); give --task, which then holds for all records");
}

// What the model is asked: each record as its task's. The output keeps the records as they are.
std::vector<data::Record> asked_records(std::vector<data::Record> records, const GenerateOptions& options) {
  const std::string task = task_for_all(options, records);
  for (data::Record& record : records) {
    if (!options.task.empty() || record.task.empty()) {
      record.task = task;
    }
  }
  return records;
}

// An earlier run may have written its answers but not have come to remove the file that they were kept in.
bool is_finished(const GenerateOptions& options, const std::filesystem::path& partial) {
  if (!std::filesystem::exists(options.output)) {
    return false;
  }
  const bool finished = options.resume && std::filesystem::exists(partial);
  MOELORA_CHECK(finished, options.output.string(), ": exists already; choose another --output");
  std::filesystem::remove(partial);
  log::info(options.output.string() + " holds all answers");
  return true;
}

void answer_records(GenerateOptions options) {
  const std::filesystem::path partial = options.output.string() + ".partial";
  if (is_finished(options, partial)) {
    return;
  }
  KeptAnswers kept(partial, options.resume);  // before the long part: can the output be written at all?
  data::ReadOptions read;
  read.need_task = false;
  read.fields = options.fields;
  read.keep_original = true;
  std::vector<data::Record> records = read_and_report(options.input, read);
  const std::vector<data::Record> asked = asked_records(records, options);
  Prompting prompting(options.prompt_options, options.evaluate);
  options.session.fingerprint = true;
  const Session session = open_session(options.session);
  prompting.bind(session, options.evaluate);
  kept.begin(identity_of_answers(session, asked, options.evaluate, options.prompt_options), options.evaluate);
  const eval::Evaluation evaluation = predict(session, asked, options.evaluate);
  for (std::size_t i = 0; i < records.size(); ++i) {
    records[i].target = evaluation.predictions[i].target;
  }
  data::write_predictions(options.output, records);
  kept.remove();
}

void run_generate(GenerateOptions options) {
  MOELORA_CHECK(options.prompt.empty() != options.input.empty(), "give either --prompt TEXT or --input FILE");
  MOELORA_CHECK(options.input.empty() || !options.output.empty(), "--input needs --output, the file for the answers");
  MOELORA_CHECK(options.prompt.empty() || options.output.empty(), "--output goes with --input; --prompt prints");
  MOELORA_CHECK(options.prompt.empty() || !options.resume, "--resume goes with --input");
  MOELORA_CHECK(options.input.empty() || !options.stream, "--stream goes with --prompt");
  if (!options.task.empty() && options.session.adapter.empty() && options.prompt_options.task_prompts.empty()) {
    log::warning("--task says which experts answer, and there is no --adapter: the model answers as it is");
  }
  if (!options.input.empty()) {
    answer_records(std::move(options));
    return;
  }
  Prompting prompting(options.prompt_options, options.evaluate);
  const Session session = open_session(options.session);
  prompting.bind(session, options.evaluate);
  MOELORA_CHECK(!session.adapter || !options.task.empty() || session.adapter->tasks().size() == 1,
                "--task is needed: the adapter serves several tasks (`moelora inspect` lists them)");
  if (session.adapter && options.task.empty()) {
    options.task = session.adapter->tasks().name(0);
  }
  answer_prompt(session, options);
}

}  // namespace

void add_generate(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("generate", "answer one prompt or a file of records");
  auto options = std::make_shared<GenerateOptions>();
  add_session_options(*verb, options->session, false);
  verb->add_option("--task", options->task,
                   "task whose experts answer; with --input: for all records, whatever their `task_dataset`");
  verb->add_option("--prompt", options->prompt, "one prompt; the answer is printed");
  verb->add_flag("--stream", options->stream, "with --prompt: print tokens as they come, without the clean-up");
  verb->add_option("--input", options->input,
                   "records (JSON lines or array): `input`, and `task_dataset` unless --task says it");
  add_fields_option(*verb, options->fields);
  verb->add_option("--output", options->output,
                   "the records with the answers in the field `target`, with --fields as they are with one field more, "
                   "`prediction`; while it runs they are kept in OUTPUT.partial");
  verb->add_flag("--resume", options->resume, "with --input: go on after the answers in OUTPUT.partial");
  add_answer_options(*verb, options->evaluate);
  add_sampling_options(*verb, options->evaluate);
  add_task_prompt_option(*verb, options->prompt_options);
  verb->footer(
      "Examples:\n"
      "  moelora generate --model examples/tiny_base/model --adapter out/run/adapter --task KUAKE-QIC --prompt "
      "感冒吃什么药\n"
      "  moelora generate --model MODEL --adapter ADAPTER --input dev.json --output answers.json --batch-size 32\n"
      "  moelora generate --model MERGED --prompt TEXT --sample --temperature 0.8 --top-p 0.9 --seed 1");
  verb->callback([options, &status] {
    run_generate(*options);
    status = 0;
  });
}

}  // namespace moelora::cli
