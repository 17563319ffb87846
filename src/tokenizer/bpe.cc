#include "tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "tokenizer/byte_level.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

constexpr uint64_t kNoPair = std::numeric_limits<uint64_t>::max();

uint64_t pair_of(int left, int right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
}

using Candidate = Bpe::Scratch::Candidate;

// For std's heaps, whose top is the largest.
bool comes_later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

Bpe::MergeTable::MergeTable(size_t num_merges)
    : entries_(std::bit_ceil(2 * num_merges + 2), Entry{kNoPair, {}}),
      shift_(64 - std::countr_zero(entries_.size())) {}

void Bpe::MergeTable::insert(int left, int right, Merge merge) {
  const uint64_t pair = pair_of(left, right);
  size_t slot = home(pair);
  while (entries_[slot].pair != kNoPair && entries_[slot].pair != pair) {
    slot = (slot + 1) & (entries_.size() - 1);
  }
  entries_[slot] = {pair, merge};
}

Bpe::Merge Bpe::MergeTable::find(int left, int right) const {
  const uint64_t pair = pair_of(left, right);
  size_t slot = home(pair);
  while (entries_[slot].pair != pair) {
    if (entries_[slot].pair == kNoPair) return {};
    slot = (slot + 1) & (entries_.size() - 1);
  }
  return entries_[slot].merge;
}

Result<Bpe> Bpe::create(const BpeSpec& spec, const std::string& name) {
  std::unordered_map<std::string_view, int> ids;
  ids.reserve(spec.vocab.size());
  for (const auto& [token, id] : spec.vocab) ids.emplace(token, id);
  const auto id_of = [&](std::string_view token) {
    const auto found = ids.find(token);
    return found == ids.end() ? -1 : found->second;
  };

  Bpe bpe(spec.merges.size());
  for (int byte = 0; byte < 256; ++byte) {
    bpe.byte_ids_[byte] = id_of(byte_level_character(static_cast<unsigned char>(byte)));
  }
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    const std::string merged = left + right;
    for (const std::string& token : {left, right, merged}) {
      if (id_of(token) >= 0) continue;
      return Status::invalid_input(
          fmt::format("{}: model.merges[{}]: \"{} {}\": \"{}\" is not in model.vocab", name, rank,
                      left, right, token));
    }
    bpe.merges_.insert(id_of(left), id_of(right), {static_cast<int>(rank), id_of(merged)});
  }
  if (spec.unk_token) {
    bpe.unk_id_ = id_of(*spec.unk_token);
    if (bpe.unk_id_ < 0) {
      return Status::invalid_input(
          fmt::format("{}: model.unk_token: \"{}\" is not in model.vocab", name, *spec.unk_token));
    }
  }
  bpe.fuse_unk_ = spec.fuse_unk;
  if (spec.ignore_merges) {
    for (const auto& [token, id] : spec.vocab) {
      if (const auto bytes = byte_level_bytes(token)) bpe.words_.emplace(*bytes, id);
    }
  }
  return bpe;
}

Status Bpe::fill_symbols(std::string_view word, std::vector<Scratch::Symbol>& symbols) const {
  symbols.clear();
  bool last_unknown = false;
  for (const char c : word) {
    const auto byte = static_cast<unsigned char>(c);
    int id = byte_ids_[byte];
    const bool unknown = id < 0;
    if (unknown && unk_id_ < 0) {
      return Status::invalid_input(fmt::format(
          "byte 0x{:02X} is not in the vocabulary, which has no unknown token either", byte));
    }
    if (unknown) id = unk_id_;
    if (!(unknown && last_unknown && fuse_unk_)) {
      const int position = static_cast<int>(symbols.size());
      symbols.push_back({id, position - 1, position + 1, false});
    }
    last_unknown = unknown;
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return Status::ok();
}

void Bpe::push_candidate(int position, Scratch& scratch) const {
  const int next = scratch.symbols[position].next;
  if (next < 0) return;
  const Merge merge = merges_.find(scratch.symbols[position].id, scratch.symbols[next].id);
  if (merge.rank < 0) return;
  scratch.queue.push_back({merge.rank, position, merge.id});
  std::push_heap(scratch.queue.begin(), scratch.queue.end(), comes_later);
}

Status Bpe::encode(std::string_view word, Scratch& scratch, std::vector<int>& ids) const {
  if (!words_.empty()) {
    if (const auto found = words_.find(std::string(word)); found != words_.end()) {
      ids.push_back(found->second);
      return Status::ok();
    }
  }
  std::vector<Scratch::Symbol>& symbols = scratch.symbols;
  RETURN_IF_ERROR(fill_symbols(word, symbols));
  scratch.queue.clear();
  for (int i = 0; i < static_cast<int>(symbols.size()); ++i) push_candidate(i, scratch);

  while (!scratch.queue.empty()) {
    const Candidate best = scratch.queue.front();
    std::pop_heap(scratch.queue.begin(), scratch.queue.end(), comes_later);
    scratch.queue.pop_back();
    Scratch::Symbol& left = symbols[best.position];
    if (left.merged || left.next < 0) continue;
    // Stale where either side has been merged since.
    if (merges_.find(left.id, symbols[left.next].id).id != best.id) continue;
    Scratch::Symbol& right = symbols[left.next];
    right.merged = true;
    left.id = best.id;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    if (left.previous >= 0) push_candidate(left.previous, scratch);
    push_candidate(best.position, scratch);
  }
  for (int i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
  return Status::ok();
}

}  // namespace wideep::tokenizer
