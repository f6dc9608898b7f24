// Makes a small tokenizer of ChatGLM-6B's kind: trains SentencePiece on PromptCBLUE-format records and writes
// ice_text.model and tokenizer_config.json. The same records and options give the same bytes.

#include <sentencepiece_trainer.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/model/chatglm/tokenizer.h"

namespace {

/// Texts in memory, as SentencePiece's trainer reads them. Line breaks become the piece that the tokenizer has for
/// them.
class Texts : public sentencepiece::SentenceIterator {
 public:
  void add(const std::string& text) {
    std::string marked;
    for (const char c : text) c == '\n' ? marked += "<n>" : marked += c;
    texts_.push_back(std::move(marked));
  }
  bool done() const override { return next_ >= texts_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return texts_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> texts_;
  std::size_t next_ = 0;
};

/// Serialized SentencePiece model with ChatGLM's special pieces.
std::string train_pieces(Texts& texts, const std::string& words, int vocab_size, int piece_length) {
  std::string whole = "<n>,<|tab|>";
  for (int run = 2; run <= 80; ++run) whole += ",<|blank_" + std::to_string(run) + "|>";
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"model_type", "unigram"},
       {"vocab_size", std::to_string(vocab_size)},
       {"max_sentencepiece_length", std::to_string(piece_length)},
       {"character_coverage", "1.0"},
       {"byte_fallback", "true"},
       {"hard_vocab_limit", "false"},  // fewer pieces when the text has no more
       {"split_digits", "true"},
       {"normalization_rule_name", "nmt_nfkc"},
       {"remove_extra_whitespaces", "false"},
       {"unk_id", "0"},
       {"bos_id", "1"},
       {"eos_id", "2"},
       {"pad_id", "3"},
       {"control_symbols", "[MASK],[gMASK],[sMASK],<unused_0>,<sop>,<eop>,<ENC>,<dBLOCK>"},
       {"user_defined_symbols", whole + words},
       {"num_threads", "1"},  // the order of floating-point sums decides ties
       {"minloglevel", "1"}},
      &texts, &model);
  MOELORA_CHECK(status.ok(), "SentencePiece cannot train ", vocab_size, " pieces: ", status.ToString(),
                "; give more text or another --vocab-size");
  return model;
}

/// Checks that every text comes back as the tokenizer normalises it, and prints the average lengths.
void report(const moelora::model::ChatGlmTokenizer& tokenizer, const std::filesystem::path& path,
            const std::vector<moelora::data::Record>& records) {
  std::int64_t source = 0, target = 0, differing = 0;
  for (const auto& record : records) {
    for (const std::string* text : {&record.input, &record.target}) {
      const auto ids = tokenizer.encode(*text);
      (text == &record.input ? source : target) += static_cast<std::int64_t>(ids.size());
      const std::string once = tokenizer.decode(ids);
      if (tokenizer.decode(tokenizer.encode(once)) != once || once.find("\u2047") != std::string::npos) ++differing;
    }
  }
  const auto count = static_cast<double>(records.size());
  std::cout << path.string() << ": " << records.size() << " records, tokens per input "
            << static_cast<double>(source) / count << ", per target " << static_cast<double>(target) / count << '\n';
  MOELORA_CHECK(differing == 0, differing, " texts of ", path.string(), " do not survive encoding and decoding");
}

/// The lines of a file, each behind a comma, as SentencePiece's trainer wants lists.
std::string word_list(const std::string& path) {
  std::istringstream lines(path.empty() ? "" : moelora::io::read_text_file(path));
  std::string list;
  for (std::string word; std::getline(lines, word);) {
    MOELORA_CHECK(word.find(',') == std::string::npos, path, ": a word may not have a comma, found ", word);
    if (!word.empty()) list += "," + word;
  }
  return list;
}

void make_tokenizer(const std::vector<std::string>& inputs, const std::string& words, const std::string& output,
                    int vocab_size, int piece_length) {
  std::vector<std::vector<moelora::data::Record>> files;
  Texts texts;
  for (const std::string& input : inputs) {
    files.push_back(moelora::data::read_records(input).records);
    for (const auto& record : files.back()) {
      texts.add(record.input);
      texts.add(record.target);
    }
  }
  const std::filesystem::path folder = output;
  moelora::io::write_file_atomically(folder / "ice_text.model",
                                     train_pieces(texts, word_list(words), vocab_size, piece_length));
  moelora::io::write_json_file(folder / "tokenizer_config.json", {{"bos_token", "<sop>"},
                                                                  {"eos_token", "<eop>"},
                                                                  {"end_token", "</s>"},
                                                                  {"gmask_token", "[gMASK]"},
                                                                  {"mask_token", "[MASK]"},
                                                                  {"pad_token", "<pad>"},
                                                                  {"unk_token", "<unk>"},
                                                                  {"remove_space", false},
                                                                  {"do_lower_case", false},
                                                                  {"tokenizer_class", "ChatGLMTokenizer"},
                                                                  {"num_image_tokens", 0}});
  const moelora::model::ChatGlmTokenizer tokenizer(folder);
  std::cout << (folder / "ice_text.model").string() << ": " << tokenizer.vocab_size() << " pieces, <pad> "
            << tokenizer.pad_id() << ", [gMASK] " << tokenizer.gmask_id() << ", <sop> " << tokenizer.bos_id()
            << ", <eop> " << tokenizer.eos_id() << '\n';
  for (std::size_t i = 0; i < inputs.size(); ++i) report(tokenizer, inputs[i], files[i]);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Makes a small tokenizer of ChatGLM-6B's kind from PromptCBLUE-format records.");
  app.footer(
      "Example:\n  make_tokenizer --data examples/sample_data/train.json --data text.json "
      "--words words.txt --output examples/tiny_base/model");
  std::vector<std::string> inputs;
  std::string words, output;
  int vocab_size = 2000;
  int piece_length = 8;
  app.add_option("--data", inputs, "Records to learn from (JSON lines or array); may be repeated")->required();
  app.add_option("--words", words, "File of words, one a line, that are never taken apart");
  app.add_option("--output", output, "Folder for ice_text.model and tokenizer_config.json")->required();
  app.add_option("--vocab-size", vocab_size, "Pieces at most, special and byte pieces included")->capture_default_str();
  app.add_option("--piece-length", piece_length, "Longest piece in characters")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    make_tokenizer(inputs, words, output, vocab_size, piece_length);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 2;
  }
  return 0;
}
