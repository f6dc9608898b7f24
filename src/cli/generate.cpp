// moelora generate: answers to one prompt or to a file of records.

#include <iostream>

#include "cli/predict.h"
#include "cli/verbs.h"
#include "moelora/io/error.h"

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
  bool stream = false;
};

void answer_prompt(const Session& session, const GenerateOptions& options) {
  data::Record record;
  record.input = options.prompt;
  record.task = options.task;
  if (!options.stream) {
    std::cout << predict(session, {record}, options.evaluate).predictions.front().target << std::endl;
    return;
  }
  const model::TokenIds prompt =
      data::encode_prompt(options.evaluate.ask(record), *session.tokenizer, options.evaluate.encode);
  const auto source = static_cast<std::int64_t>(prompt.size()) - session.tokenizer->prompt_overhead();
  model::GenerationOptions generation = options.evaluate.generation;
  generation.max_new_tokens = options.evaluate.max_target_length;
  generation.eos_id = session.tokenizer->eos_id();
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
  };
  model::ChatGlm model = session.model;
  model::generate(*model, {prompt}, {session.tokenizer->context_length(source)}, generation,
                  session.context_maker(session.tasks_of({record})), stream);
  std::cout << std::endl;
}

void run_generate(GenerateOptions options) {
  MOELORA_CHECK(options.prompt.empty() != options.input.empty(), "give either --prompt TEXT or --input FILE");
  MOELORA_CHECK(options.input.empty() || !options.output.empty(), "--input needs --output, the file for the answers");
  MOELORA_CHECK(options.prompt.empty() || options.output.empty(), "--output goes with --input; --prompt prints");
  std::vector<data::Record> records;
  if (!options.input.empty()) {
    MOELORA_CHECK(!std::filesystem::exists(options.output), options.output.string(), ": exists already");
    records = read_and_report(options.input);
    if (!options.task.empty()) {
      for (data::Record& record : records) {
        record.task = options.task;
      }
    }
  }
  Prompting prompting(options.prompt_options, options.evaluate);
  const Session session = open_session(options.session);
  options.evaluate.ask = [&](const data::Record& record) { return prompting.ask(record, *session.tokenizer); };
  if (options.input.empty()) {
    MOELORA_CHECK(!session.adapter || !options.task.empty() || session.adapter->tasks().size() == 1,
                  "--task is needed: the adapter serves several tasks (`moelora inspect` lists them)");
    if (session.adapter && options.task.empty()) {
      options.task = session.adapter->tasks().name(0);
    }
    answer_prompt(session, options);
    return;
  }
  write_records(options.output, predict(session, records, options.evaluate).predictions);
}

}  // namespace

void add_generate(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("generate", "answer one prompt or a file of records");
  auto options = std::make_shared<GenerateOptions>();
  add_session_options(*verb, options->session, false);
  verb->add_option("--task", options->task, "task whose experts answer; with --input: for all records");
  verb->add_option("--prompt", options->prompt, "one prompt; the answer is printed");
  verb->add_flag("--stream", options->stream, "with --prompt: print tokens as they come, without the clean-up");
  verb->add_option("--input", options->input, "records (JSON lines or array, field `input`)");
  verb->add_option("--output", options->output, "the records with the answers in the field `target`");
  add_predict_options(*verb, options->evaluate);
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
