/* A QEMU plugin that counts the instructions that the emulated program retires.
 *
 * Debian packages QEMU's plugin interface without its header: the functions used are declared here.
 * VERSION is the interface's version, which the plugin has to name. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef void (*on_translation)(uint64_t id, void *block);
typedef void (*on_execution)(unsigned int processor, void *data);
typedef void (*on_exit)(uint64_t id, void *data);

extern size_t qemu_plugin_tb_n_insns(const void *block);
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, on_translation call);
extern void qemu_plugin_register_vcpu_tb_exec_cb(void *block, on_execution call, int flags, void *data);
extern void qemu_plugin_register_atexit_cb(uint64_t id, on_exit call, void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = VERSION;

static uint64_t retired;
static char path[4096];

static void executed(unsigned int processor, void *data)
{
    (void)processor;
    retired += (uintptr_t)data;
}

static void translated(uint64_t id, void *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void finished(uint64_t id, void *data)
{
    (void)id;
    (void)data;
    FILE *file = fopen(path, "w");
    if (file) {
        fprintf(file, "%llu\n", (unsigned long long)retired);
        fclose(file);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int count,
                                                               char **arguments)
{
    (void)info;
    if (count != 1 || strncmp(arguments[0], "to=", 3) || strlen(arguments[0]) >= sizeof path)
        return 1;
    strcpy(path, arguments[0] + 3);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
