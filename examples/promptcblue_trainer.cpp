// The library's trainer in a program of one's own: records in, an adapter and scores per task out.
//
//   build/bin/promptcblue_trainer MODEL TRAIN DEV OUTPUT [STEPS]
//   build/bin/promptcblue_trainer examples/tiny_base/model examples/sample_data/train.json \
//       examples/sample_data/dev.json out/trainer 100
//
// prints progress, then a table with one line per task that ends with
//   average                           0.1903                         176          44
// (100 steps are few: the quickstart's 400 reach 0.62), and leaves OUTPUT/adapter, OUTPUT/checkpoints, OUTPUT/log.jsonl
// and OUTPUT/scores/report.html. Run again after an interruption, it goes on where it stopped.

#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>

#include "moelora/data/split.h"
#include "moelora/eval/evaluate.h"
#include "moelora/eval/report.h"
#include "moelora/io/provenance.h"
#include "moelora/model/registry.h"
#include "moelora/train/trainer.h"

namespace {

using moelora::data::EncodeOptions;
using moelora::data::Example;
using moelora::data::Record;

EncodeOptions encode_options() { return {.max_source_length = 256, .max_target_length = 128}; }

std::vector<Example> encode(const std::vector<Record>& records, const moelora::TaskNames& tasks,
                            const moelora::model::Tokenizer& tokenizer) {
  std::vector<Example> examples;
  for (const Record& record : records) {
    examples.push_back(moelora::data::encode_pair(record, tasks.index(record.task), tokenizer, encode_options()));
  }
  return examples;
}

void run(const std::string& model_folder, const std::string& train_file, const std::string& dev_file,
         const std::string& output, std::int64_t steps) {
  moelora::model::LoadOptions load;
  load.fingerprint = true;  // ties the adapter to its base
  const moelora::model::LoadedModel base = moelora::model::load(model_folder, load);
  moelora::model::CausalLM& model = *base.model;
  const moelora::model::Tokenizer& tokenizer = *base.tokenizer;

  // The validation part comes out of the training records: dev is scored once, at the end.
  auto records = moelora::data::read_records(train_file, {.deduplicate = true, .need_target = true}).records;
  const moelora::TaskNames tasks(moelora::data::task_names_of(records));
  const auto split = moelora::data::carve_validation(std::move(records), 120, /*seed=*/42);
  const auto train_examples = encode(split.train, tasks, tokenizer);
  const auto validation_examples = encode(split.validation, tasks, tokenizer);

  moelora::Adapter adapter = moelora::inject(model, moelora::MoeLoraConfig{}, tasks);
  moelora::train::TrainingOptions options;
  options.steps = steps;
  options.batch_size = 32;
  options.learning_rate = 5e-3;
  options.warmup_steps = std::min<std::int64_t>(20, steps);
  options.checkpoint_every = 100;
  const moelora::train::TrainInputs inputs{.model = model,
                                           .adapter = adapter.get(),
                                           .train = train_examples,
                                           .validation = validation_examples,
                                           .tasks = tasks.names(),
                                           .output = output,
                                           .resume = true,
                                           .base_fingerprint = base.base_fingerprint,
                                           .tokenizer_fingerprint = tokenizer.fingerprint(),
                                           .provenance = moelora::io::provenance()};
  moelora::train::train(inputs, options);

  // Scores on dev: each batch's context binds the adapter to the tasks of its records.
  const auto dev = moelora::data::read_records(dev_file).records;
  const auto context = [&](const std::vector<std::int64_t>& batch) {
    std::vector<std::int64_t> batch_tasks;
    for (const std::int64_t record : batch) {
      batch_tasks.push_back(tasks.index(dev[record].task));
    }
    return moelora::for_tasks(adapter, moelora::single_tasks(batch_tasks));
  };
  const auto evaluation =
      moelora::eval::evaluate(model, tokenizer, dev, {.encode = encode_options(), .max_target_length = 128}, context);
  moelora::eval::EvaluationReport report;
  report.title = "PromptCBLUE";
  report.scores = moelora::eval::score(dev, evaluation.predictions);
  report.majority = moelora::eval::majority_scores(split.train, dev);
  report.predictions = evaluation.predictions;
  report.references = dev;
  moelora::eval::write_evaluation_report(output + "/scores", report);
  std::printf("%s", moelora::eval::to_table(report.scores).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    std::fprintf(stderr, "usage: promptcblue_trainer MODEL TRAIN DEV OUTPUT [STEPS]\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argv[4], argc == 6 ? std::stoll(argv[5]) : 400);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "promptcblue_trainer: error: %s\n", error.what());
    return 2;
  }
}
