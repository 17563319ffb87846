// YAML as this project reads it: one document of maps, lists and scalars, every key and value with
// its line and column, so that each error can point at its place.
//
// The tree is flat: one record a node in document order (20 bytes) and one string with all scalars'
// text. A plan of 61 layers x 1024 slots is 62,464 scalars; that is what the layout is for.
//
// Refused, each with its line: anchors and aliases (a few lines of them expand to gigabytes), tags,
// a key twice in one map, keys that are not scalars, more than one document, tabs as indentation,
// control characters, nesting over 64, over 8 million nodes, files over 64 MiB.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep {

enum class YamlKind : uint8_t { kNull, kScalar, kList, kMap };

inline constexpr int kYamlMaxDepth = 64;
inline constexpr int64_t kYamlMaxNodes = 8'000'000;
inline constexpr int64_t kYamlMaxBytes = int64_t{64} << 20;

class YamlDocument;

// A view of one node; valid while its document lives and is not moved.
class YamlNode {
 public:
  // What a map holds: a scalar key and its value.
  struct Entry;

  YamlKind kind() const;
  bool is_null() const { return kind() == YamlKind::kNull; }
  bool is_scalar() const { return kind() == YamlKind::kScalar; }
  bool is_list() const { return kind() == YamlKind::kList; }
  bool is_map() const { return kind() == YamlKind::kMap; }

  int line() const;    // from 1
  int column() const;  // from 1

  // A scalar's text without its quotes; "" for the other kinds.
  std::string_view text() const;
  // Was the scalar in quotes? Then it is a string, whatever it looks like.
  bool quoted() const;

  // Items of a list, entries of a map; 0 for the other kinds.
  int64_t size() const;
  // In document order; O(size), whatever hangs below. CHECKs the kind.
  std::vector<YamlNode> items() const;
  std::vector<Entry> entries() const;
  // The value of `key`, or nullopt. O(size). CHECKs the kind.
  std::optional<YamlNode> find(std::string_view key) const;

 private:
  friend class YamlDocument;
  YamlNode(const YamlDocument* document, uint32_t index) : document_(document), index_(index) {}

  const YamlDocument* document_;
  uint32_t index_;
};

struct YamlNode::Entry {
  YamlNode key;
  YamlNode value;
};

class YamlDocument {
 public:
  // `name` (a path) opens every error message: "name:line: what: rule". An empty text is a null
  // root.
  static Result<YamlDocument> parse(std::string_view text, const std::string& name);

  YamlNode root() const { return {this, 0}; }

 private:
  friend class YamlNode;
  friend class YamlBuilder;

  struct Record {
    uint32_t line;         // from 1
    uint32_t column : 29;  // from 1, saturated
    uint32_t kind : 2;
    uint32_t quoted : 1;
    uint32_t end;         // index of the first record after this subtree
    uint32_t text_begin;  // scalar: its text; list, map: unused
    uint32_t size;        // scalar: bytes of text; list: items; map: entries
  };
  static_assert(sizeof(Record) == 20);

  std::vector<Record> records_;
  std::string text_;
};

// read_file and YamlDocument::parse.
Result<YamlDocument> read_yaml(const std::string& path);

}  // namespace wideep
