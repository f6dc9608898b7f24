#include "model/tokenizers/pipeline.h"

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"
#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kLargestFile = std::uintmax_t{256} << 20;  // published ones have up to 35 MB

Json read_tokenizer_json(const fs::path& file) {
  MOELORA_CHECK(fs::is_regular_file(file), "expected the tokenizer ", file.string(),
                ", found no such file; copy tokenizer.json of the model's distribution there");
  MOELORA_CHECK(fs::file_size(file) <= kLargestFile, file.string(), " has ", fs::file_size(file),
                " bytes, expected a tokenizer of at most ", kLargestFile);
  try {
    return Json::parse(io::read_text_file(file));
  } catch (const Json::exception&) {
    throw Error(detail::concat("expected JSON in ", file.string(),
                               ", found something else; copy it from the model's distribution again"));
  }
}

}  // namespace

Pipeline::Pipeline(const fs::path& file) {
  const Json json = read_tokenizer_json(file);
  JsonPart top(json, file.string());
  const auto part = [&](const char* key) -> const Json& {
    static const Json none;
    const Json* found = top.find(key);
    return found == nullptr ? none : *found;
  };
  const auto where = [&](const char* key) { return file.string() + ": " + key; };
  for (const char* key : {"version", "truncation", "padding"}) {
    top.find(key);  // lengths are this library's affair
  }
  normalizer_ = read_normalizer(part("normalizer"), where("normalizer"));
  pre_tokenizer_ = read_pre_tokenizer(part("pre_tokenizer"), where("pre_tokenizer"));
  bpe_.emplace(JsonPart(part("model"), where("model")), pre_tokenizer_ != nullptr && pre_tokenizer_->makes_bytes());
  added_.emplace(part("added_tokens"), where("added_tokens"), normalizer_.get());
  surroundings_ = read_post_processor(part("post_processor"), where("post_processor"));
  decoder_ = read_decoder(part("decoder"), where("decoder"));
  top.finish();
  count_tokens(where("added_tokens"));
  io::Sha256 hash;
  hash.update(bpe_->description());
  for (const char* key : {"normalizer", "pre_tokenizer", "added_tokens"}) {
    hash.update("\n" + part(key).dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  fingerprint_ = hash.hex();
}

void Pipeline::count_tokens(const std::string& where) {
  const auto pieces = static_cast<std::int64_t>(bpe_->pieces().size());
  for (const std::string& piece : bpe_->pieces()) {
    size_ += piece.empty() ? 0 : 1;
  }
  for (const AddedToken& token : added_->all()) {
    const std::int64_t known = bpe_->id_of(token.content);
    const bool taken = token.id < pieces && !bpe_->pieces()[static_cast<std::size_t>(token.id)].empty();
    MOELORA_CHECK(known == token.id || (known < 0 && !taken), where, ": ", io::shortened(token.content, 60), " has id ",
                  token.id, ", but the vocabulary gives ",
                  known >= 0 ? "it id " + std::to_string(known) : std::string("this id to another piece"));
    size_ += known < 0 ? 1 : 0;
  }
}

std::int64_t Pipeline::id_of(const std::string& content) const {
  const AddedToken* token = added_->find(content);
  return token != nullptr ? token->id : bpe_->id_of(content);
}

void Pipeline::make_special(const std::string& content) {
  if (added_->make_special(content, id_of(content))) {
    fingerprint_ = io::Sha256().update(fingerprint_ + "\nspecial: " + content).hex();
  }
}

const std::string& Pipeline::content_of(std::int64_t id) const {
  static const std::string none;
  MOELORA_CHECK(id >= 0, "expected token ids of at least 0, found ", id);
  if (const AddedToken* token = added_->find(id)) {
    return token->content;
  }
  return id < static_cast<std::int64_t>(bpe_->pieces().size()) ? bpe_->pieces()[static_cast<std::size_t>(id)] : none;
}

TokenIds Pipeline::encode(std::string_view text, std::string_view mark) const {
  TokenIds ids;
  for (const Stretch& stretch : added_->cut(text, /*after_normalizing=*/false)) {
    if (stretch.id >= 0) {
      ids.push_back(stretch.id);
      continue;
    }
    const std::string_view between = text.substr(stretch.span.begin, stretch.span.end - stretch.span.begin);
    const bool at_begin = stretch.span.begin == 0;
    if (mark.empty() || between.find(mark) == between.npos) {
      encode_between(between, at_begin, /*find_added=*/true, ids);
      continue;
    }
    std::string without;
    std::size_t at = 0;
    for (std::size_t found; (found = between.find(mark, at)) != between.npos; at = found + mark.size()) {
      without += between.substr(at, found - at);
    }
    without += between.substr(at);
    encode_between(without, at_begin, /*find_added=*/false, ids);
  }
  return ids;
}

void Pipeline::encode_between(std::string_view text, bool at_begin, bool find_added, TokenIds& ids) const {
  const std::string ready = normalizer_ ? normalizer_->apply(std::string(text)) : std::string(text);
  const std::vector<Stretch> stretches =
      find_added ? added_->cut(ready, /*after_normalizing=*/true) : std::vector<Stretch>{{{0, ready.size()}, -1}};
  for (const Stretch& stretch : stretches) {
    if (stretch.id >= 0) {
      ids.push_back(stretch.id);
      continue;
    }
    if (stretch.span.empty()) {
      continue;
    }
    Words words;
    words.text = ready.substr(stretch.span.begin, stretch.span.end - stretch.span.begin);
    words.spans = {{0, words.text.size()}};
    words.at_begin = at_begin && stretch.span.begin == 0;
    if (pre_tokenizer_) {
      pre_tokenizer_->apply(words);
    }
    for (const Span& word : words.spans) {
      bpe_->encode(words.word(word), ids);
    }
  }
}

std::string Pipeline::decode(const TokenIds& ids, bool with_special) const {
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (const std::int64_t id : ids) {
    const AddedToken* token = added_->find(id);
    if (token != nullptr && token->special && !with_special) {
      continue;
    }
    if (const std::string& content = content_of(id); !content.empty()) {
      pieces.push_back(content);
    }
  }
  decoder_->apply(pieces);
  std::string text;
  for (const std::string& piece : pieces) {
    text += piece;
  }
  return text;
}

}  // namespace moelora::model::tokenizers
