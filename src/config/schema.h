// Declarative reading of a configuration: each key is described once (path, type and range, what it
// means) and that one table reads files, names the nearest valid key, prints a configuration and
// writes docs/configuration.md. Reading never stops at the first violation: all are collected.
//
// A path is the chain of map keys joined by dots ("moe_config.backend"). Maps are one level deep. A
// legacy key is an alias: it sets its target by the target's own rule, and giving both is an error.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "config/yaml.h"

namespace wideep {

// Where a value came from. Paths without an origin have their default.
struct Origin {
  std::string place;  // "engine.yaml:3" or "--tp"
  std::string key;    // as it was written there: the path or its legacy alias
};
using Origins = std::map<std::string, Origin>;

// Violations of one input, a line each, and the keys whose values are therefore not to be trusted:
// a rule over several keys is not judged where one of them is doubtful.
class Violations {
 public:
  void add(std::string line) {
    if (!is_full()) lines_.push_back(std::move(line));
    ++count_;
  }
  // The line "place: key: value: rule".
  void add(std::string_view place, std::string_view key, std::string_view value,
           std::string_view rule);
  // The lines of a failed status; nothing for kOk.
  void add(const Status& status);

  void doubt(std::string_view path) { doubtful_.emplace(path); }
  bool doubtful(std::string_view path) const { return doubtful_.contains(path); }

  size_t size() const { return count_; }
  bool empty() const { return count_ == 0; }
  // Are as many lines kept as will be shown? Further ones are only counted.
  bool is_full() const { return lines_.size() >= kMaxLines; }
  // kInvalidInput with all lines, at most 100 of them and then how many more there are.
  Status status() const;

 private:
  static constexpr size_t kMaxLines = 100;

  std::vector<std::string> lines_;
  size_t count_ = 0;
  std::set<std::string, std::less<>> doubtful_;
};

// One read of one document: its name for messages and what has been found so far.
struct ReadContext {
  const std::string& file;
  Violations& violations;
  Origins& origins;
  bool has_lines = true;  // false: `file` is a flag

  std::string place(const YamlNode& node) const;
  void fail(const YamlNode& node, std::string_view path, std::string_view rule) const;
  // Records where `target` was set. False, with a violation, where it already was.
  bool claim(const YamlNode& key, const std::string& written, const std::string& target) const;
};

// A value as messages show it: a scalar's text (shortened), "null", "a list of 3", "a map".
std::string describe(const YamlNode& node);
// The nearest of the candidates, or "".
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);
// " (did you mean "x"?)", or "" for "".
std::string did_you_mean(std::string_view candidate);

// Strict scalars: nullopt where the node is not one. Integers are decimal without leading zeros;
// booleans are those of YAML 1.1 (true, yes, on, ...); a quoted scalar is only ever a string.
std::optional<int64_t> scalar_int(const YamlNode& node);
std::optional<double> scalar_double(const YamlNode& node);
std::optional<bool> scalar_bool(const YamlNode& node);
std::optional<std::string> scalar_string(const YamlNode& node);

// "line  # origin", the comments of a file aligned.
std::string origin_line(const std::string& line, const std::string& path, const Origins& origins);

// The text as a YAML scalar that reads back as the same string: quoted where it has to be.
std::string yaml_string(std::string_view text);
std::string yaml_double(double value);
std::string yaml_list(const std::vector<int>& values);  // "[1, 2, 4]"

// What a row of the key table in docs/configuration.md says.
struct KeyDoc {
  std::string path;
  std::string type;
  std::string fallback;  // default
  std::string doc;
  std::string target;  // legacy keys: what to write instead
};

template <typename T>
struct Key {
  std::string path;
  std::string type;  // "integer >= 1": for the table and for "must be ..."
  std::string doc;
  std::string target;  // legacy keys: the path that this one sets; "" otherwise
  // Stores the value, or reports its violations under the path as it was written. Unset in an alias
  // that is read by its target's rule.
  std::function<void(const ReadContext&, const std::string& written, const YamlNode&, T&)> read;
  // The value as YAML: one line, or for a block a newline and indented lines. Unset in an alias.
  std::function<std::string(const T&)> write;
};

// A map inside the document. One that may be null has all three functions; null switches off what
// it configures, and keys of it that are given elsewhere (legacy aliases) are then violations.
template <typename T>
struct Section {
  std::string path;
  std::function<void(T&)> enter;  // makes it exist
  std::function<void(T&)> clear;  // null
  std::function<bool(const T&)> present;
};

// A key that TensorRT-LLM has and this project does not read, with the reason.
struct RefusedKey {
  std::string path;
  std::string reason;
};

template <typename T>
class Schema {
 public:
  std::vector<Section<T>> sections;
  std::vector<Key<T>> keys;  // the keys of a section stand together
  std::vector<RefusedKey> refused;

  // Reads a document's root. A null root (an empty file) leaves `out` as it is.
  void read(const ReadContext& context, const YamlNode& root, T& out) const {
    if (root.is_null()) return;
    if (!root.is_map()) return context.fail(root, "(document)", "must be a map of keys to values");
    read_map(context, root, "", out);
    refuse_keys_of_null(context, out);
  }

  const Key<T>* find(std::string_view path) const {
    for (const Key<T>& key : keys) {
      if (key.path == path) return &key;
    }
    return nullptr;
  }
  const Section<T>* find_section(std::string_view path) const {
    for (const Section<T>& section : sections) {
      if (section.path == path) return &section;
    }
    return nullptr;
  }

  // The configuration as YAML that reads back as itself, each line with its value's origin.
  std::string write(const T& config, const Origins& origins) const {
    std::string text;
    std::string open;  // section of the line before
    for (const Key<T>& key : keys) {
      if (!key.target.empty()) continue;
      const std::string section = section_of(key.path);
      const Section<T>* spec = find_section(section);
      const bool present = spec == nullptr || !spec->present || spec->present(config);
      if (!section.empty() && section != open) {
        text += present ? section + ":\n" : origin_line(section + ": null", section, origins);
      }
      open = section;
      if (!present) continue;
      const std::string name = section.empty() ? key.path : key.path.substr(section.size() + 1);
      std::string line = section.empty() ? "" : "  ";
      const std::string value = key.write(config);
      const bool is_block = value.starts_with('\n');
      line.append(name).append(is_block ? ":" : ": ").append(value);
      text += is_block ? line : origin_line(line, key.path, origins);
    }
    return text;
  }

  // The rows of the table, in the schema's order.
  std::vector<KeyDoc> docs() const {
    T full{};
    for (const Section<T>& section : sections) {
      if (section.enter) section.enter(full);
    }
    std::vector<KeyDoc> rows;
    for (const Key<T>& key : keys) {
      rows.push_back({key.path, key.type, key.write ? key.write(full) : "", key.doc, key.target});
    }
    return rows;
  }

 private:
  static std::string section_of(const std::string& path) {
    const size_t dot = path.find('.');
    return dot == std::string::npos ? "" : path.substr(0, dot);
  }

  std::string target_of(const std::string& path) const {
    const Key<T>* key = find(path);
    return key == nullptr || key->target.empty() ? path : key->target;
  }

  void read_map(const ReadContext& context, const YamlNode& map, const std::string& prefix,
                T& out) const {
    for (const auto& [name, value] : map.entries()) {
      const std::string path = prefix + std::string(name.text());
      if (const Section<T>* section = find_section(path)) {
        read_section(context, *section, name, value, out);
      } else if (const Key<T>* key = find(path)) {
        read_key(context, *key, name, value, out);
      } else {
        fail_unknown(context, path, name, value, prefix);
      }
    }
  }

  void read_section(const ReadContext& context, const Section<T>& section, const YamlNode& name,
                    const YamlNode& value, T& out) const {
    if (!context.claim(name, section.path, section.path)) return;
    if (value.is_map()) {
      if (section.enter) section.enter(out);
      read_map(context, value, section.path + ".", out);
    } else if (value.is_null() && section.clear) {
      section.clear(out);
    } else {
      context.fail(value, section.path, section.clear ? "must be a map or null" : "must be a map");
    }
  }

  void read_key(const ReadContext& context, const Key<T>& key, const YamlNode& name,
                const YamlNode& value, T& out) const {
    const std::string& target = key.target.empty() ? key.path : key.target;
    if (!context.claim(name, key.path, target)) return;
    const Section<T>* section = find_section(section_of(target));
    if (section != nullptr && section->present && !section->present(out)) {
      // Given as null before: refuse_keys_of_null will say so.
      if (context.origins.contains(section->path)) return;
      section->enter(out);
    }
    const Key<T>* reader = key.read ? &key : find(target);
    CHECK(reader != nullptr && reader->read);
    const size_t before = context.violations.size();
    reader->read(context, key.path, value, out);
    if (context.violations.size() > before) context.violations.doubt(target);
  }

  void fail_unknown(const ReadContext& context, const std::string& path, const YamlNode& name,
                    const YamlNode& value, const std::string& prefix) const {
    // The wrong file may have a million of them; the nearest word of each takes a while.
    if (context.violations.is_full()) return context.violations.add("");
    for (const RefusedKey& key : refused) {
      if (key.path == path)
        return context.violations.add(context.place(name), path, describe(value), key.reason);
    }
    std::vector<std::string> near;  // the names at this level, without the prefix
    std::string elsewhere;          // the same name in another map
    const auto consider = [&](const std::string& known) {
      const std::string section = section_of(known);
      const std::string leaf = section.empty() ? known : known.substr(section.size() + 1);
      if ((section.empty() ? "" : section + ".") == prefix) near.push_back(leaf);
      if (leaf == name.text() && elsewhere.empty()) elsewhere = known;
    };
    for (const Key<T>& key : keys) consider(key.path);
    for (const Section<T>& section : sections) consider(section.path);
    std::string meant = elsewhere;
    if (meant.empty()) {
      meant = nearest(name.text(), near);
      // What was meant has its default now: no rule should complain about that as well.
      if (!meant.empty()) context.violations.doubt(target_of(prefix + meant));
    }
    context.violations.add(context.place(name), path, describe(value),
                           "unknown key" + did_you_mean(meant));
  }

  void refuse_keys_of_null(const ReadContext& context, const T& out) const {
    for (const Section<T>& section : sections) {
      const auto null = context.origins.find(section.path);
      if (!section.present || section.present(out) || null == context.origins.end()) continue;
      for (const auto& [path, origin] : context.origins) {
        if (!path.starts_with(section.path + ".")) continue;
        context.violations.add(
            origin.place, origin.key, "given",
            "cannot act: " + null->second.key + " turns it off at " + null->second.place);
      }
    }
  }
};

}  // namespace wideep
