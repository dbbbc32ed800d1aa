SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE TYPE public.studydirection AS ENUM (
    'NOT_SET',
    'MINIMIZE',
    'MAXIMIZE'
);
CREATE TYPE public.trialintermediatevaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG',
    'NAN'
);
CREATE TYPE public.trialstate AS ENUM (
    'RUNNING',
    'COMPLETE',
    'PRUNED',
    'FAIL',
    'WAITING'
);
CREATE TYPE public.trialvaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG'
);
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.studies (
    study_id integer NOT NULL,
    study_name character varying(512) NOT NULL
);
CREATE SEQUENCE public.studies_study_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.studies_study_id_seq OWNED BY public.studies.study_id;
CREATE TABLE public.study_directions (
    study_direction_id integer NOT NULL,
    direction public.studydirection NOT NULL,
    study_id integer NOT NULL,
    objective integer NOT NULL
);
CREATE SEQUENCE public.study_directions_study_direction_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_directions_study_direction_id_seq OWNED BY public.study_directions.study_direction_id;
CREATE TABLE public.study_system_attributes (
    study_system_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.study_system_attributes_study_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_system_attributes_study_system_attribute_id_seq OWNED BY public.study_system_attributes.study_system_attribute_id;
CREATE TABLE public.study_user_attributes (
    study_user_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.study_user_attributes_study_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_user_attributes_study_user_attribute_id_seq OWNED BY public.study_user_attributes.study_user_attribute_id;
CREATE TABLE public.trial_heartbeats (
    trial_heartbeat_id integer NOT NULL,
    trial_id integer NOT NULL,
    heartbeat timestamp without time zone NOT NULL
);
CREATE SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq OWNED BY public.trial_heartbeats.trial_heartbeat_id;
CREATE TABLE public.trial_intermediate_values (
    trial_intermediate_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    step integer NOT NULL,
    intermediate_value double precision,
    intermediate_value_type public.trialintermediatevaluetype NOT NULL
);
CREATE SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq OWNED BY public.trial_intermediate_values.trial_intermediate_value_id;
CREATE TABLE public.trial_params (
    param_id integer NOT NULL,
    trial_id integer,
    param_name character varying(512),
    param_value double precision,
    distribution_json text
);
CREATE SEQUENCE public.trial_params_param_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_params_param_id_seq OWNED BY public.trial_params.param_id;
CREATE TABLE public.trial_system_attributes (
    trial_system_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq OWNED BY public.trial_system_attributes.trial_system_attribute_id;
CREATE TABLE public.trial_user_attributes (
    trial_user_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq OWNED BY public.trial_user_attributes.trial_user_attribute_id;
CREATE TABLE public.trial_values (
    trial_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    objective integer NOT NULL,
    value double precision,
    value_type public.trialvaluetype NOT NULL
);
CREATE SEQUENCE public.trial_values_trial_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_values_trial_value_id_seq OWNED BY public.trial_values.trial_value_id;
CREATE TABLE public.trials (
    trial_id integer NOT NULL,
    number integer,
    study_id integer,
    state public.trialstate NOT NULL,
    datetime_start timestamp without time zone,
    datetime_complete timestamp without time zone
);
CREATE SEQUENCE public.trials_trial_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trials_trial_id_seq OWNED BY public.trials.trial_id;
CREATE TABLE public.version_info (
    version_info_id integer NOT NULL,
    schema_version integer,
    library_version character varying(256),
    CONSTRAINT version_info_version_info_id_check CHECK ((version_info_id = 1))
);
ALTER TABLE ONLY public.studies ALTER COLUMN study_id SET DEFAULT nextval('public.studies_study_id_seq'::regclass);
ALTER TABLE ONLY public.study_directions ALTER COLUMN study_direction_id SET DEFAULT nextval('public.study_directions_study_direction_id_seq'::regclass);
ALTER TABLE ONLY public.study_system_attributes ALTER COLUMN study_system_attribute_id SET DEFAULT nextval('public.study_system_attributes_study_system_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.study_user_attributes ALTER COLUMN study_user_attribute_id SET DEFAULT nextval('public.study_user_attributes_study_user_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_heartbeats ALTER COLUMN trial_heartbeat_id SET DEFAULT nextval('public.trial_heartbeats_trial_heartbeat_id_seq'::regclass);
ALTER TABLE ONLY public.trial_intermediate_values ALTER COLUMN trial_intermediate_value_id SET DEFAULT nextval('public.trial_intermediate_values_trial_intermediate_value_id_seq'::regclass);
ALTER TABLE ONLY public.trial_params ALTER COLUMN param_id SET DEFAULT nextval('public.trial_params_param_id_seq'::regclass);
ALTER TABLE ONLY public.trial_system_attributes ALTER COLUMN trial_system_attribute_id SET DEFAULT nextval('public.trial_system_attributes_trial_system_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_user_attributes ALTER COLUMN trial_user_attribute_id SET DEFAULT nextval('public.trial_user_attributes_trial_user_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_values ALTER COLUMN trial_value_id SET DEFAULT nextval('public.trial_values_trial_value_id_seq'::regclass);
ALTER TABLE ONLY public.trials ALTER COLUMN trial_id SET DEFAULT nextval('public.trials_trial_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('v3.2.0.a');
INSERT INTO public.studies VALUES (1, 'test_stored.py #4d0ee9398b06');
INSERT INTO public.study_directions VALUES (1, 'MINIMIZE', 1, 0);
INSERT INTO public.study_user_attributes VALUES (1, 1, 'autotune:question', '{"space": {"parameters": {"a": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}, "name": {"choices": ["x", "\u00fc"]}}, "constraints": ["a < 8 or name == ''x''"], "variables": {}}, "objective": "minimize:cost", "slo": {"bounds": [{"label": "mem", "metrics": ["mem", "mean_mem"], "threshold": 20, "upper": true, "weight": 1.0, "hard": true, "fail_ratio": 0}], "steepness": 0.1, "levels": "all"}}');
INSERT INTO public.study_user_attributes VALUES (2, 1, 'autotune:session', '"31003-22bc38fb75a1"');
INSERT INTO public.study_user_attributes VALUES (3, 1, 'autotune:fresh', 'false');
INSERT INTO public.study_user_attributes VALUES (4, 1, 'autotune:code', '{"globs": [], "files": {"test_stored.py": "0e41acdb89aa-7f6b565e9e33"}, "sources": {}, "parts": {}}');
INSERT INTO public.study_user_attributes VALUES (5, 1, 'autotune:key', '{"workload": {}, "environment": {"cpu": "AMD EPYC", "cpus": "2", "memory": "24 GiB", "gpus": "none", "libraries": "numpy 2.4.6, scipy 1.17.1", "machine": "x86_64", "python": "cpython 3.11", "system": "Linux"}, "format": 3}');
INSERT INTO public.study_user_attributes VALUES (7, 1, 'autotune:search', '{"strategy": "random", "seed": 2}');
INSERT INTO public.study_user_attributes VALUES (6, 1, 'autotune:used', '1796125113.1472664');
INSERT INTO public.trial_params VALUES (1, 1, 'a', 6, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}');
INSERT INTO public.trial_params VALUES (2, 1, 'name', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["x", "\u00fc"]}}');
INSERT INTO public.trial_params VALUES (3, 2, 'a', 2, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}');
INSERT INTO public.trial_params VALUES (4, 2, 'name', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["x", "\u00fc"]}}');
INSERT INTO public.trial_params VALUES (5, 3, 'a', 3, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}');
INSERT INTO public.trial_params VALUES (6, 3, 'name', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["x", "\u00fc"]}}');
INSERT INTO public.trial_params VALUES (7, 4, 'a', 7, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}');
INSERT INTO public.trial_params VALUES (8, 4, 'name', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["x", "\u00fc"]}}');
INSERT INTO public.trial_params VALUES (9, 5, 'a', 5, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}');
INSERT INTO public.trial_params VALUES (10, 5, 'name', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["x", "\u00fc"]}}');
INSERT INTO public.trial_params VALUES (11, 6, 'a', 4, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}');
INSERT INTO public.trial_params VALUES (12, 6, 'name', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["x", "\u00fc"]}}');
INSERT INTO public.trial_params VALUES (13, 7, 'a', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}');
INSERT INTO public.trial_params VALUES (14, 7, 'name', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["x", "\u00fc"]}}');
INSERT INTO public.trial_params VALUES (15, 8, 'a', 4, '{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2, 3, 4, 5, 6, 7, 8]}}');
INSERT INTO public.trial_params VALUES (16, 8, 'name', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["x", "\u00fc"]}}');
INSERT INTO public.trial_system_attributes VALUES (1, 1, 'constraints:slo', '0.05');
INSERT INTO public.trial_system_attributes VALUES (2, 4, 'constraints:slo', '0.2');
INSERT INTO public.trial_system_attributes VALUES (3, 5, 'constraints:slo', '-0.1');
INSERT INTO public.trial_system_attributes VALUES (4, 6, 'constraints:slo', '-0.25');
INSERT INTO public.trial_system_attributes VALUES (5, 7, 'constraints:slo', '-0.85');
INSERT INTO public.trial_user_attributes VALUES (1, 1, 'autotune:number', '0');
INSERT INTO public.trial_user_attributes VALUES (2, 1, 'autotune:params', '"{\"a\": 7, \"name\": \"x\"}"');
INSERT INTO public.trial_user_attributes VALUES (3, 1, 'autotune:owner', '{"process": "55a9774cb1af4d52b78e9725488a04c6", "session": "31003-22bc38fb75a1", "slot": "trial-000", "attempt": 1, "retry_of": null, "started": 1796125089.6226463}');
INSERT INTO public.trial_user_attributes VALUES (4, 1, 'autotune:measurement', '{"ending": "cut short", "metrics": {"cost": 7.25, "mem": 21.0}, "levels": [{"concurrency": 1}, {"concurrency": 2}], "level_metrics": {"request_throughput": [10.0, 20.0], "ttft": [0.1, 0.2]}, "notes": ["measured with care"], "duration": 0.612741}');
INSERT INTO public.trial_user_attributes VALUES (5, 2, 'autotune:number', '1');
INSERT INTO public.trial_user_attributes VALUES (6, 2, 'autotune:params', '"{\"a\": 3, \"name\": \"x\"}"');
INSERT INTO public.trial_user_attributes VALUES (7, 2, 'autotune:owner', '{"process": "55a9774cb1af4d52b78e9725488a04c6", "session": "31003-22bc38fb75a1", "slot": "trial-001", "attempt": 1, "retry_of": null, "started": 1796125090.622793}');
INSERT INTO public.trial_user_attributes VALUES (8, 2, 'autotune:measurement', '{"ending": "skipped", "reason": "cannot run here", "duration": 0.162187}');
INSERT INTO public.trial_user_attributes VALUES (9, 3, 'autotune:number', '2');
INSERT INTO public.trial_user_attributes VALUES (10, 3, 'autotune:params', '"{\"a\": 4, \"name\": \"\\u00fc\"}"');
INSERT INTO public.trial_user_attributes VALUES (11, 3, 'autotune:owner', '{"process": "55a9774cb1af4d52b78e9725488a04c6", "session": "31003-22bc38fb75a1", "slot": "trial-002", "attempt": 1, "retry_of": null, "started": 1796125091.0218267}');
INSERT INTO public.trial_user_attributes VALUES (12, 3, 'autotune:measurement', '{"ending": "failed", "reason": "AssertionError: wrong answer", "duration": 0.223936}');
INSERT INTO public.trial_user_attributes VALUES (13, 4, 'autotune:number', '3');
INSERT INTO public.trial_user_attributes VALUES (14, 4, 'autotune:params', '"{\"a\": 8, \"name\": \"x\"}"');
INSERT INTO public.trial_user_attributes VALUES (15, 4, 'autotune:owner', '{"process": "55a9774cb1af4d52b78e9725488a04c6", "session": "31003-22bc38fb75a1", "slot": "trial-003", "attempt": 1, "retry_of": null, "started": 1796125091.479021}');
INSERT INTO public.trial_user_attributes VALUES (16, 4, 'autotune:measurement', '{"ending": "cut short", "metrics": {"cost": 8.25, "mem": 24.0}, "levels": [{"concurrency": 1}, {"concurrency": 2}], "level_metrics": {"request_throughput": [10.0, 20.0], "ttft": [0.1, 0.2]}, "notes": ["measured with care"], "duration": 0.302733}');
INSERT INTO public.trial_user_attributes VALUES (17, 5, 'autotune:number', '4');
INSERT INTO public.trial_user_attributes VALUES (18, 5, 'autotune:params', '"{\"a\": 6, \"name\": \"\\u00fc\"}"');
INSERT INTO public.trial_user_attributes VALUES (19, 5, 'autotune:owner', '{"process": "55a9774cb1af4d52b78e9725488a04c6", "session": "31003-22bc38fb75a1", "slot": "trial-004", "attempt": 1, "retry_of": null, "started": 1796125092.127229}');
INSERT INTO public.trial_user_attributes VALUES (20, 5, 'autotune:measurement', '{"ending": "complete", "metrics": {"cost": 6.25, "mem": 18.0}, "levels": [{"concurrency": 1}, {"concurrency": 2}], "level_metrics": {"request_throughput": [10.0, 20.0], "ttft": [0.1, 0.2]}, "notes": ["measured with care"], "duration": 0.19726}');
INSERT INTO public.trial_user_attributes VALUES (21, 6, 'autotune:number', '5');
INSERT INTO public.trial_user_attributes VALUES (22, 6, 'autotune:params', '"{\"a\": 5, \"name\": \"\\u00fc\"}"');
INSERT INTO public.trial_user_attributes VALUES (23, 6, 'autotune:owner', '{"process": "55a9774cb1af4d52b78e9725488a04c6", "session": "31003-22bc38fb75a1", "slot": "trial-005", "attempt": 1, "retry_of": null, "started": 1796125092.700866}');
INSERT INTO public.trial_user_attributes VALUES (24, 6, 'autotune:measurement', '{"ending": "complete", "metrics": {"cost": 5.25, "mem": 15.0}, "levels": [{"concurrency": 1}, {"concurrency": 2}], "level_metrics": {"request_throughput": [10.0, 20.0], "ttft": [0.1, 0.2]}, "notes": ["measured with care"], "duration": 0.210371}');
INSERT INTO public.trial_user_attributes VALUES (25, 7, 'autotune:number', '6');
INSERT INTO public.trial_user_attributes VALUES (26, 7, 'autotune:params', '"{\"a\": 1, \"name\": \"\\u00fc\"}"');
INSERT INTO public.trial_user_attributes VALUES (27, 7, 'autotune:owner', '{"process": "0bba57715bd44a58b63665bce0a22ca7", "session": "31120-6b082870cc5b", "slot": "trial-006", "attempt": 1, "retry_of": null, "started": 1796125113.5805442}');
INSERT INTO public.trial_user_attributes VALUES (28, 7, 'autotune:measurement', '{"ending": "complete", "metrics": {"cost": 1.25, "mem": 3.0}, "levels": [{"concurrency": 1}, {"concurrency": 2}], "level_metrics": {"request_throughput": [10.0, 20.0], "ttft": [0.1, 0.2]}, "notes": ["measured with care"], "duration": 0.280276}');
INSERT INTO public.trial_user_attributes VALUES (29, 8, 'autotune:number', '7');
INSERT INTO public.trial_user_attributes VALUES (30, 8, 'autotune:params', '"{\"a\": 5, \"name\": \"x\"}"');
INSERT INTO public.trial_user_attributes VALUES (31, 8, 'autotune:owner', '{"process": "0bba57715bd44a58b63665bce0a22ca7", "session": "31120-6b082870cc5b", "slot": "trial-007", "attempt": 1, "retry_of": null, "started": 1796125114.2120392}');
INSERT INTO public.trial_values VALUES (1, 1, 0, 7.25, 'FINITE');
INSERT INTO public.trial_values VALUES (2, 4, 0, 8.25, 'FINITE');
INSERT INTO public.trial_values VALUES (3, 5, 0, 6.25, 'FINITE');
INSERT INTO public.trial_values VALUES (4, 6, 0, 5.25, 'FINITE');
INSERT INTO public.trial_values VALUES (5, 7, 0, 1.25, 'FINITE');
INSERT INTO public.trials VALUES (1, 0, 1, 'COMPLETE', '2026-12-01 11:38:09.623111', '2026-12-01 11:38:10.442416');
INSERT INTO public.trials VALUES (2, 1, 1, 'FAIL', '2026-12-01 11:38:10.622959', '2026-12-01 11:38:10.878234');
INSERT INTO public.trials VALUES (3, 2, 1, 'FAIL', '2026-12-01 11:38:11.02205', '2026-12-01 11:38:11.342798');
INSERT INTO public.trials VALUES (4, 3, 1, 'COMPLETE', '2026-12-01 11:38:11.479262', '2026-12-01 11:38:11.966479');
INSERT INTO public.trials VALUES (5, 4, 1, 'COMPLETE', '2026-12-01 11:38:12.133778', '2026-12-01 11:38:12.515894');
INSERT INTO public.trials VALUES (6, 5, 1, 'COMPLETE', '2026-12-01 11:38:12.701119', '2026-12-01 11:38:13.111695');
INSERT INTO public.trials VALUES (7, 6, 1, 'COMPLETE', '2026-12-01 11:38:33.580789', '2026-12-01 11:38:34.074277');
INSERT INTO public.trials VALUES (8, 7, 1, 'RUNNING', '2026-12-01 11:38:34.212253', NULL);
INSERT INTO public.version_info VALUES (1, 12, '5.0.0');
SELECT pg_catalog.setval('public.studies_study_id_seq', 1, true);
SELECT pg_catalog.setval('public.study_directions_study_direction_id_seq', 1, true);
SELECT pg_catalog.setval('public.study_system_attributes_study_system_attribute_id_seq', 1, false);
SELECT pg_catalog.setval('public.study_user_attributes_study_user_attribute_id_seq', 7, true);
SELECT pg_catalog.setval('public.trial_heartbeats_trial_heartbeat_id_seq', 1, false);
SELECT pg_catalog.setval('public.trial_intermediate_values_trial_intermediate_value_id_seq', 1, false);
SELECT pg_catalog.setval('public.trial_params_param_id_seq', 16, true);
SELECT pg_catalog.setval('public.trial_system_attributes_trial_system_attribute_id_seq', 5, true);
SELECT pg_catalog.setval('public.trial_user_attributes_trial_user_attribute_id_seq', 31, true);
SELECT pg_catalog.setval('public.trial_values_trial_value_id_seq', 5, true);
SELECT pg_catalog.setval('public.trials_trial_id_seq', 8, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT studies_pkey PRIMARY KEY (study_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_pkey PRIMARY KEY (study_direction_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_objective_key UNIQUE (study_id, objective);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_pkey PRIMARY KEY (study_system_attribute_id);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_key_key UNIQUE (study_id, key);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_pkey PRIMARY KEY (study_user_attribute_id);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_key_key UNIQUE (study_id, key);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_pkey PRIMARY KEY (trial_heartbeat_id);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_key UNIQUE (trial_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_pkey PRIMARY KEY (trial_intermediate_value_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_step_key UNIQUE (trial_id, step);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_pkey PRIMARY KEY (param_id);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_param_name_key UNIQUE (trial_id, param_name);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_pkey PRIMARY KEY (trial_system_attribute_id);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_key_key UNIQUE (trial_id, key);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_pkey PRIMARY KEY (trial_user_attribute_id);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_key_key UNIQUE (trial_id, key);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_pkey PRIMARY KEY (trial_value_id);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_objective_key UNIQUE (trial_id, objective);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (trial_id);
ALTER TABLE ONLY public.version_info
    ADD CONSTRAINT version_info_pkey PRIMARY KEY (version_info_id);
CREATE UNIQUE INDEX ix_studies_study_name ON public.studies USING btree (study_name);
CREATE INDEX ix_trials_study_id ON public.trials USING btree (study_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
