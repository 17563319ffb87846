// Byte pair encoding (Sennrich et al. 2016) of one word at a time, by merge rank.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "tokenizer/tokenizer_spec.h"

namespace wideep::tokenizer {

class Bpe {
 public:
  // Buffers of one thread, kept over the words of a text.
  struct Scratch {
    struct Symbol {
      int id;
      int previous;  // -1: the first
      int next;      // -1: the last
      bool merged;   // into the one before it
    };
    struct Candidate {
      int rank;
      int position;  // of the left symbol
      int id;        // of the pair
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> queue;  // heap, the lowest (rank, position) on top
  };

  // `name` (the file) opens the errors. Every merge and its result are in the vocabulary.
  static Result<Bpe> create(const BpeSpec& spec, const std::string& name);

  // Appends the ids of the word's tokens. O(n log n) for n bytes. A byte that the vocabulary lacks
  // becomes the unknown token; where there is none, it is an error.
  Status encode(std::string_view word, Scratch& scratch, std::vector<int>& ids) const;

 private:
  struct Merge {
    int rank = -1;  // -1: no such merge
    int id = -1;
  };

  // (left id, right id) -> merge: open addressing, at most half full. An order of magnitude faster
  // than a node-based map, and encoding is little else than looking up pairs.
  class MergeTable {
   public:
    explicit MergeTable(size_t num_merges);
    // Of two merges of one pair the later one counts.
    void insert(int left, int right, Merge merge);
    Merge find(int left, int right) const;

   private:
    struct Entry {
      uint64_t pair;
      Merge merge;
    };
    size_t home(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15ull) >> shift_; }

    std::vector<Entry> entries_;
    int shift_;
  };

  explicit Bpe(size_t num_merges) : merges_(num_merges) {}
  Status fill_symbols(std::string_view word, std::vector<Scratch::Symbol>& symbols) const;
  void push_candidate(int position, Scratch& scratch) const;

  std::array<int, 256> byte_ids_;  // -1: not in the vocabulary
  MergeTable merges_;
  // bytes -> id, only where a word that is a token is taken as it is.
  std::unordered_map<std::string, int> words_;
  int unk_id_ = -1;
  bool fuse_unk_ = false;
};

}  // namespace wideep::tokenizer
