#include "model/tokenizers/bpe.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <queue>

#include "model/tokenizers/byte_alphabet.h"
#include "moelora/io/error.h"
#include "moelora/io/sha256.h"
#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {
namespace {

constexpr std::size_t kShortWord = 64;  // pieces; searching them all for the next merge is faster than a heap
constexpr std::int64_t kMostPieces = std::int64_t{1} << 22;

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

std::size_t place_of(std::uint64_t pair, std::size_t places) {
  pair ^= pair >> 29;
  pair *= 0xbf58476d1ce4e5b9ULL;
  pair ^= pair >> 32;
  return static_cast<std::size_t>(pair) & (places - 1);
}

std::string byte_piece(unsigned byte) {
  char text[8];
  std::snprintf(text, sizeof text, "<0x%02X>", byte);
  return text;
}

/// A merge that may be made: of the piece at `at` with its right neighbour.
struct Candidate {
  std::int32_t rank;
  std::int32_t at;
  std::int32_t left, right;  ///< the pieces that it was found for
  std::int32_t piece;
  bool operator<(const Candidate& other) const {  // the queue's top is the largest
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

}  // namespace

Bpe::Bpe(JsonPart model, bool byte_level) : byte_level_(byte_level) {
  if (model.type() != "BPE") {
    model.refuse("a model of type \"" + model.type() + "\" (BPE is)");
  }
  if (const Json* dropout = model.find("dropout"); dropout != nullptr && *dropout != 0.0) {
    model.refuse("\"dropout\"");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.text(key, "").empty()) {
      model.refuse("\"" + std::string(key) + "\"");
    }
  }
  fuse_unknown_ = model.flag("fuse_unk", false);
  ignore_merges_ = model.flag("ignore_merges", false);
  byte_fallback_ = model.flag("byte_fallback", false);
  read_vocabulary(model);
  read_merges(model);
  const std::string unknown = model.text("unk_token", "");
  if (!unknown.empty()) {
    const std::int64_t id = id_of(unknown);
    if (id < 0) {
      model.wrong("unk_token", "a piece of the vocabulary");
    }
    unknown_ = static_cast<std::int32_t>(id);
  }
  model.finish();
}

void Bpe::read_vocabulary(JsonPart& model) {
  const Json* vocabulary = model.find("vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) {
    model.wrong("vocab", "an object of pieces and ids");
  }
  std::int64_t largest = -1;
  for (const auto& [piece, id] : vocabulary->items()) {
    MOELORA_CHECK(id.is_number_integer() && id.get<std::int64_t>() >= 0 && id.get<std::int64_t>() < kMostPieces,
                  model.where(), ".vocab: expected an id from 0 to ", kMostPieces - 1, " for ",
                  io::shortened(piece, 40), ", found ", io::shortened(id.dump(), 40));
    largest = std::max(largest, id.get<std::int64_t>());
  }
  pieces_.resize(static_cast<std::size_t>(largest + 1));
  std::vector<bool> taken(pieces_.size());
  for (const auto& [piece, id] : vocabulary->items()) {
    const auto place = id.get<std::size_t>();
    MOELORA_CHECK(!taken[place], model.where(), ".vocab: two pieces have id ", place, ", ",
                  io::shortened(pieces_[place], 40), " and ", io::shortened(piece, 40));
    taken[place] = true;
    pieces_[place] = piece;
    id_of_piece_.emplace(piece, static_cast<std::int32_t>(place));
    if (!byte_level_) {
      id_of_text_.emplace(piece, static_cast<std::int32_t>(place));
    } else if (auto bytes = bytes_of_piece(piece)) {  // others, such as special tokens, stand for no bytes of a text
      id_of_text_.emplace(std::move(*bytes), static_cast<std::int32_t>(place));
    }
  }
  bool all_bytes = true;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (byte_level_) {
      const auto found = id_of_text_.find(std::string(1, static_cast<char>(byte)));
      id_of_byte_[byte] = found == id_of_text_.end() ? -1 : found->second;
    } else {
      id_of_byte_[byte] = static_cast<std::int32_t>(id_of(byte_piece(byte)));
    }
    all_bytes = all_bytes && id_of_byte_[byte] >= 0;
  }
  if (byte_level_ && byte_fallback_ && !all_bytes) {
    model.refuse("\"byte_fallback\" of a byte-level vocabulary that lacks bytes");
  }
}

void Bpe::read_merges(JsonPart& model) {
  const std::vector<Json>& merges = model.list("merges");
  MOELORA_CHECK(merges.size() < static_cast<std::size_t>(kMostPieces), model.where(), ".merges: expected less than ",
                kMostPieces, ", found ", merges.size());
  std::size_t places = 1024;
  while (places < 2 * merges.size()) {
    places *= 2;
  }
  merges_.resize(places);
  for (std::size_t i = 0; i < merges.size(); ++i) {
    std::string left, right;
    const Json& merge = merges[i];
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const std::size_t blank = text.find(' ');
      if (blank != text.npos && text.find(' ', blank + 1) == text.npos) {
        left = text.substr(0, blank);
        right = text.substr(blank + 1);
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    }
    const std::int64_t left_id = id_of(left), right_id = id_of(right), id = id_of(left + right);
    MOELORA_CHECK(!left.empty() && !right.empty() && left_id >= 0 && right_id >= 0 && id >= 0, model.where(),
                  ".merges[", i, "]: expected two pieces of the vocabulary that make a third, as \"a b\" or ",
                  "[\"a\", \"b\"], found ",
                  io::shortened(merge.dump(-1, ' ', false, Json::error_handler_t::replace), 80));
    add_merge(static_cast<std::int32_t>(left_id), static_cast<std::int32_t>(right_id), static_cast<std::int32_t>(id),
              static_cast<std::int32_t>(i));
    merge_list_.push_back({static_cast<std::int32_t>(left_id), static_cast<std::int32_t>(right_id)});
  }
}

void Bpe::add_merge(std::int32_t left, std::int32_t right, std::int32_t piece, std::int32_t rank) {
  const std::uint64_t pair = pair_of(left, right);
  std::size_t place = place_of(pair, merges_.size());
  while (merges_[place].rank >= 0 && merges_[place].pair != pair) {
    place = (place + 1) & (merges_.size() - 1);
  }
  merges_[place] = {rank, piece, pair};  // of two merges of the same pieces the later one counts
}

const Bpe::Merge* Bpe::find_merge(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t place = place_of(pair, merges_.size()); merges_[place].rank >= 0;
       place = (place + 1) & (merges_.size() - 1)) {
    if (merges_[place].pair == pair) {
      return &merges_[place];
    }
  }
  return nullptr;
}

std::int64_t Bpe::id_of(const std::string& piece) const {
  const auto found = id_of_piece_.find(piece);
  return found == id_of_piece_.end() ? -1 : found->second;
}

std::string Bpe::description() const {
  io::Sha256 hash;
  for (const std::string& piece : pieces_) {
    hash.update(std::to_string(piece.size()) + ":" + piece);
  }
  hash.update(merge_list_.data(), merge_list_.size() * sizeof merge_list_[0]);
  return detail::concat("BPE ", hash.hex(), " byte_level ", byte_level_, " byte_fallback ", byte_fallback_,
                        " fuse_unk ", fuse_unknown_, " ignore_merges ", ignore_merges_, " unk ", unknown_);
}

void Bpe::encode(std::string_view word, TokenIds& ids) const {
  if (word.empty() || cache_.append(word, ids)) {
    return;
  }
  const std::size_t before = ids.size();
  encode_uncached(word, ids);
  cache_.keep(word, ids.data() + before, ids.size() - before);
}

void Bpe::encode_uncached(std::string_view word, TokenIds& ids) const {
  if (ignore_merges_) {
    if (const auto whole = id_of_text_.find(word); whole != id_of_text_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  std::vector<std::int32_t> pieces;
  pieces.reserve(word.size());
  first_pieces(word, pieces);
  MOELORA_CHECK(pieces.size() < std::size_t{1} << 31, "expected a text of less than 2 GiB, found ", word.size(),
                " bytes");
  if (pieces.size() <= kShortWord) {
    merge_short(pieces);
  } else {
    merge_long(pieces);
  }
  ids.insert(ids.end(), pieces.begin(), pieces.end());
}

void Bpe::first_pieces(std::string_view word, std::vector<std::int32_t>& pieces) const {
  bool pending = false;  // an unknown character that the next ones may belong to
  for (std::size_t at = 0; at < word.size();) {
    std::size_t length = 1;
    std::int32_t id;
    if (byte_level_) {
      id = id_of_byte_[static_cast<unsigned char>(word[at])];
    } else {
      length = std::max<std::size_t>(1, io::utf8_length(word, at));
      const auto found = id_of_text_.find(word.substr(at, length));
      id = found == id_of_text_.end() ? -1 : found->second;
    }
    const std::string_view character = word.substr(at, length);
    at += length;
    if (id >= 0) {
      if (pending) pieces.push_back(unknown_);
      pending = false;
      pieces.push_back(id);
      continue;
    }
    if (byte_fallback_ && std::all_of(character.begin(), character.end(),
                                      [&](char c) { return id_of_byte_[static_cast<unsigned char>(c)] >= 0; })) {
      for (const char c : character) {
        pieces.push_back(id_of_byte_[static_cast<unsigned char>(c)]);
      }
      continue;
    }
    if (unknown_ >= 0) {  // without such a piece the character is left out, as Hugging Face does
      if (pending && !fuse_unknown_) pieces.push_back(unknown_);
      pending = true;
    }
  }
  if (pending) pieces.push_back(unknown_);
}

void Bpe::merge_short(std::vector<std::int32_t>& pieces) const {
  constexpr std::int32_t kNone = std::numeric_limits<std::int32_t>::max();
  std::array<std::int32_t, kShortWord> ranks, merged;  // of each piece with its right neighbour
  const auto look_up = [&](std::size_t i) {
    const Merge* merge = i + 1 < pieces.size() ? find_merge(pieces[i], pieces[i + 1]) : nullptr;
    ranks[i] = merge == nullptr ? kNone : merge->rank;
    merged[i] = merge == nullptr ? -1 : merge->piece;
  };
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    look_up(i);
  }
  while (pieces.size() > 1) {
    const auto end = ranks.begin() + static_cast<std::ptrdiff_t>(pieces.size());
    const auto best = std::min_element(ranks.begin(), end);  // the first of equal ones
    if (*best == kNone) {
      return;
    }
    const auto at = static_cast<std::size_t>(best - ranks.begin());
    pieces[at] = merged[at];
    pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    std::copy(ranks.begin() + static_cast<std::ptrdiff_t>(at) + 2, end,
              ranks.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    std::copy(merged.begin() + static_cast<std::ptrdiff_t>(at) + 2,
              merged.begin() + static_cast<std::ptrdiff_t>(pieces.size()) + 1,
              merged.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    look_up(at);
    if (at > 0) {
      look_up(at - 1);
    }
  }
}

void Bpe::merge_long(std::vector<std::int32_t>& pieces) const {
  const auto count = static_cast<std::int32_t>(pieces.size());
  std::vector<std::int32_t> before(pieces.size()), after(pieces.size());
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::int32_t at) {
    if (at < 0 || after[at] >= count) {
      return;
    }
    if (const Merge* merge = find_merge(pieces[at], pieces[after[at]])) {
      queue.push({merge->rank, at, pieces[at], pieces[after[at]], merge->piece});
    }
  };
  for (std::int32_t i = 0; i < count; ++i) {
    before[i] = i - 1;
    after[i] = i + 1;
  }
  for (std::int32_t i = 0; i + 1 < count; ++i) {
    consider(i);
  }
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const std::int32_t next = after[best.at];
    if (pieces[best.at] != best.left || next >= count || pieces[next] != best.right) {
      continue;  // one of the two was merged meanwhile
    }
    pieces[best.at] = best.piece;
    pieces[next] = -1;
    after[best.at] = after[next];
    if (after[next] < count) {
      before[after[next]] = best.at;
    }
    consider(before[best.at]);
    consider(best.at);
  }
  std::erase(pieces, -1);
}

}  // namespace moelora::model::tokenizers
