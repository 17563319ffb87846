// A language model that is nothing but a hash, for tests: it reads every token of the sequence back
// through the pages of a KV cache, so a wrong page, position, chunk or copy gives other tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace wideep::engine {

// splitmix64's finaliser over both.
inline uint64_t mix_hash(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15ULL + b + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// What is stored for a position: stands for the whole sequence up to it.
inline uint64_t hash_entry(uint64_t entry_before, int token) {
  return mix_hash(entry_before, static_cast<uint64_t>(token));
}

// Computes positions [first_position, first_position + tokens) and returns the next token, which is
// taken from the sum of all entries. memory [pages, page_tokens].
inline int run_hash_sequence(std::span<uint64_t> memory, int page_tokens,
                             std::span<const int> pages, int first_position,
                             std::span<const int> tokens, int vocab_size) {
  const auto entry = [&](int position) -> uint64_t& {
    const auto page = static_cast<size_t>(pages[static_cast<size_t>(position / page_tokens)]);
    return memory[page * static_cast<size_t>(page_tokens) +
                  static_cast<size_t>(position % page_tokens)];
  };
  int position = first_position;
  for (const int token : tokens) {
    entry(position) = hash_entry(position == 0 ? 0 : entry(position - 1), token);
    ++position;
  }
  uint64_t sum = 0;
  for (int p = 0; p < position; ++p) sum += entry(p);
  return static_cast<int>(sum % static_cast<uint64_t>(vocab_size));
}

// The answer of the same model to a prompt alone.
inline std::vector<int> hash_answer(std::vector<int> tokens, int max_new_tokens, int vocab_size,
                                    std::span<const int> stop_token_ids = {}) {
  const size_t prompt = tokens.size();
  std::vector<uint64_t> memory(tokens.size() + static_cast<size_t>(max_new_tokens));
  const std::vector<int> page = {0};
  size_t computed = 0;
  while (tokens.size() < prompt + static_cast<size_t>(max_new_tokens)) {
    const int next =
        run_hash_sequence(memory, static_cast<int>(memory.size()), page, static_cast<int>(computed),
                          std::span<const int>(tokens).subspan(computed), vocab_size);
    computed = tokens.size();
    tokens.push_back(next);
    bool stop = false;
    for (const int id : stop_token_ids) stop |= id == next;
    if (stop) break;
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt), tokens.end()};
}

}  // namespace wideep::engine
